"""Runs HEAR's evaluation kit."""
