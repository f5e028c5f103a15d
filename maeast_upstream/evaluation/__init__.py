"""Linear probes and fine-tuning on labelled sets."""
