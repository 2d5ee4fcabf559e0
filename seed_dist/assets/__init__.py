"""Weights from elsewhere: how they are named, fetched once on a node with internet, and found and checked offline."""

from seed_dist.assets.fingerprint import weights_sha256
from seed_dist.assets.reference import resolve

__all__ = ["resolve", "weights_sha256"]
