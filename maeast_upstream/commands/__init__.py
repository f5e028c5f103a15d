"""The commands of ``maeast``: each module parses its options, calls the library and prints."""
