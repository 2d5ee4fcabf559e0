"""Where things are kept that belong to no run: fetched assets, compiled libraries. Read from the environment here."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "SEED_DIST_CACHE"  # ~/.cache/seed_dist unless set
ASSETS_VARIABLE = "SEED_DIST_ASSETS"  # the folder `assets` of the cache unless set


def cache_folder() -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "seed_dist")


def assets_folder() -> Path:
    """All fetched assets, each in OWNER--NAME/REVISION: on a disk that the compute nodes see."""
    named = os.environ.get(ASSETS_VARIABLE)
    return Path(named).expanduser() if named else cache_folder() / "assets"
