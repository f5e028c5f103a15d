"""Kernels that replace torch's own on a CPU."""
