"""Figures and the map page."""
