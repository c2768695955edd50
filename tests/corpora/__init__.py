"""Corpora of files, downloaded on demand."""
