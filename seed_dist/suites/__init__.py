"""Suites of measurements on test sets: resumable, over any number of ranks, with a receipt for every figure."""
