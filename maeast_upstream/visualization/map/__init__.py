"""The map of a table of embeddings, as an interactive page or a picture."""
