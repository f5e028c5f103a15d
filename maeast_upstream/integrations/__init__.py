"""Adapters for other toolkits."""
