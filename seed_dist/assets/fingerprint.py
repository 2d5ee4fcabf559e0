"""The fingerprint of a backbone folder, by which features, runs and reports name the weights behind them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from seed_dist.assets.manifest import MANIFEST_NAME
from seed_dist.errors import ConfigError
from seed_dist.fsio import fingerprint, sha256_file

_KINDS = (".safetensors", ".bin", ".json")


@lru_cache(maxsize=16)
def weights_sha256(folder: Path) -> str:
    """Fingerprint (16 hex digits) of every weight and configuration file of a backbone folder, names included.

    The manifest of a fetched asset does not count: it holds a date, and the same files are the same weights. Nor are
    its SHA-256 believed: size and date of a damaged copy may be right, and features would bear a false name.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in _KINDS and path.name != MANIFEST_NAME)
    if not files:
        raise ConfigError([f"backbone folder {folder} holds no .safetensors, .bin or .json file; check the path"])
    return fingerprint({str(path.relative_to(folder)): sha256_file(path) for path in files})
