"""The eight labelled sets, one module each: which files of which packages they use, and their labels and splits."""
