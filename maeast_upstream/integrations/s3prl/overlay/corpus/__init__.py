"""The corpora of s3prl's CTC tasks that SUPERB needs; holds no s3prl code and imports none."""
