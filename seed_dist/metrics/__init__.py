"""The published measures, as functions of arrays and texts: no files, no models."""
