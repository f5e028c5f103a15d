"""Runs HEAR's evaluation kit, heareval."""
