"""Files and folders that appear whole or not at all, locks, and settings of runs; local and remote."""
