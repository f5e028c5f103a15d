"""Linear probes, fine-tuning and comparisons on labelled sets."""
