"""Turns the audio of packages into the shards of a pretraining corpus."""
