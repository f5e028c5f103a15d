"""Fetches Debian packages and reads what is in them."""
