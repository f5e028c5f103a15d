"""The eight labelled sets, a file each: which files of which packages, their labels and splits."""
