"""Classifiers of clips on frozen embeddings: fitting, calibration, and the folder that holds one."""
