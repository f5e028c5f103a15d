"""Processes that decode audio ahead of the model."""
