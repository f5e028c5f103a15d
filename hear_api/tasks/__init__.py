"""Makes tasks for HEAR's evaluation kit."""
