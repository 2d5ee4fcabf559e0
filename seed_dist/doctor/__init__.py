"""Finds what would stop or slow a run, before it is submitted and inside its allocation, and says how to mend it."""
