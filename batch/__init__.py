"""Many pairs at once: work lists, local runs, served batches."""
