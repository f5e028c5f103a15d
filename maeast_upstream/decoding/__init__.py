"""Decodes audio ahead of the model, in other processes."""
