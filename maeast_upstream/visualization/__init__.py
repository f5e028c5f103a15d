"""Figures, and the map of a table of embeddings."""
