"""MAE-AST in s3prl. This file imports nothing, since joblib workers and s3prl's hub import from here before s3prl."""
