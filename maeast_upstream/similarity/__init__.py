"""Compares the rows of tables of embeddings: search, duplicates, clusters."""
