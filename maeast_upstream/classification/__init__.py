"""Classifiers of clips on frozen embeddings: fitting, calibration, and the folder that holds one."""

from maeast_upstream.classification.classifier import Classifier

__all__ = ["Classifier"]
