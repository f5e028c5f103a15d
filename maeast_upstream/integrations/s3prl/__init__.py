"""s3prl with the upstream ``mae_ast``. Imports nothing: joblib workers and s3prl's hub import from here early."""
