"""Builds the pretraining corpus."""
