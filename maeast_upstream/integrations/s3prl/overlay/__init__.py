"""Stands in s3prl.downstream.ctc for the folder `corpus` that s3prl's wheel leaves out."""
