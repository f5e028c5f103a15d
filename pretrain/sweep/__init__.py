"""Sweeps: many runs of one recipe, and a table of their scores."""
