"""Frozen models run over a whole set once: images or features in, features out, shard by shard with the same keys."""
