"""Proofs on the user's own machines that what a long run relies on holds there: real trainings, really disturbed."""
