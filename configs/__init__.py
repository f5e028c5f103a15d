"""Recipes, and in superb/ the YAMLs of s3prl's tasks; a package so that an editable install has them, too."""
