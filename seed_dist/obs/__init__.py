"""What a run tells about itself: log lines, progress, journal, provenance, MLflow."""
