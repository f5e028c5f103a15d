"""Corpora and batches of crops."""
