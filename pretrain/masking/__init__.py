"""Rules that decide which tokens are masked."""
