"""Masking: which tokens of a clip the encoder does not see."""
