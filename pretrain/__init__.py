"""Pretraining of MAE-AST encoders: `python -m pretrain --config RECIPE.yaml`."""
