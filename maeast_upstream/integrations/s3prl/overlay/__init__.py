"""Holds the folder `corpus` of s3prl.downstream.ctc, which s3prl's wheel does not contain."""
