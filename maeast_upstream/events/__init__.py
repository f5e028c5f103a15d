"""Sound events: a classifier of time steps whose output becomes onsets and offsets."""
