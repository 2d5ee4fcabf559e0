"""Whether a run's ranks live, why it died, and whether to start it again. Nothing here needs more than Python."""
