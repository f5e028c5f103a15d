"""The corpora of s3prl's CTC tasks that SUPERB needs. They contain no code of s3prl and import none."""
