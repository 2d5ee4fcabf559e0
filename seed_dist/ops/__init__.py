"""Commands around a run: the chain of steps from raw images to the report."""
