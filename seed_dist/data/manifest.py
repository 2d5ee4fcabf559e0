"""What a finished folder of shards holds and what it was made from. `manifest.json` is written last."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seed_dist.errors import DataError
from seed_dist.fsio import fingerprint, write_json

MANIFEST_NAME = "manifest.json"
CARD_NAME = "README.md"  # beside a manifest, for people: seed_dist.data.card
REMOTE_NAME = "remote.json"  # beside a manifest whose shards lie elsewhere, see seed_dist.data.remote
QUARANTINED = "quarantined"  # under this name the details of features list the rows that hold none
_FORMAT = 1
_FIELDS = {"format", "kind", "samples", "shards", "parents", "details", "fingerprint"}


@dataclass(frozen=True)
class ShardEntry:
    """One tar file of a set."""

    name: str
    samples: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`kind` is "images" or "features"; `parents` names what the set was made from, by fingerprint.

    `details` says how it was made (sharding rules, or encoder, weights, pre-processing, dtype and shape of one
    sample) and holds one digest per column of the index.
    """

    kind: str
    samples: int
    shards: tuple[ShardEntry, ...]
    parents: dict[str, str]
    details: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any byte of the samples, captions or circumstances."""
        return fingerprint(asdict(self))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare `folder` complete; everything that the manifest names must be on disk already."""
    write_json(folder / MANIFEST_NAME, {"format": _FORMAT, **asdict(manifest), "fingerprint": manifest.fingerprint})


def load_manifest(folder: Path) -> Manifest:
    """The manifest of a finished set. DataError when it is absent, damaged or of another format."""
    path = folder / MANIFEST_NAME
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(_absent(folder)) from None
    except ValueError as error:
        raise DataError(_damaged(path, f"it is not JSON ({error})")) from None
    if not isinstance(values, dict) or set(values) != _FIELDS:
        raise DataError(_damaged(path, "its fields are not those of a manifest"))
    if values["format"] != _FORMAT:
        raise DataError(
            f"{path} has format {values['format']!r}, and this version reads format {_FORMAT}: "
            "use the version that wrote it, or delete the folder and make it again."
        )
    return _checked(path, values)


def _checked(path: Path, values: dict[str, Any]) -> Manifest:
    try:
        shards = tuple(ShardEntry(**entry) for entry in values["shards"])
        manifest = Manifest(values["kind"], values["samples"], shards, values["parents"], values["details"])
    except TypeError as error:
        raise DataError(_damaged(path, str(error))) from None
    if manifest.fingerprint != values["fingerprint"]:
        raise DataError(
            _damaged(path, f"its content has fingerprint {manifest.fingerprint}, but it says {values['fingerprint']}")
        )
    return manifest


def _absent(folder: Path) -> str:
    state = "exists but is not finished" if folder.is_dir() else "does not exist"
    return (
        f"{folder} {state}: there is no {MANIFEST_NAME}. Run the command that makes it "
        "(data_prep/shard.py for images, data_prep/encode.py for features); it goes on from what is finished."
    )


def _damaged(path: Path, reason: str) -> str:
    return f"{path} is damaged: {reason}. Restore it from a copy, or delete {path.parent} and make it again."
