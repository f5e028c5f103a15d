"""The interactive map of a table of embeddings."""
