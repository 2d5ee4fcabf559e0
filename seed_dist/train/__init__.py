"""Training: one loop, one objective per stage."""
