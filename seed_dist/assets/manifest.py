"""`asset.json` beside the files of a fetched asset: what they are, where from, under which licence. Written last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from seed_dist.errors import DataError
from seed_dist.fsio import sha256_file, write_json

MANIFEST_NAME = "asset.json"
FORMAT = 1


@dataclass(frozen=True)
class AssetFile:
    """One file as it was when it came."""

    size_bytes: int
    sha256: str

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class AssetManifest:
    """`reference` is hub:OWNER/NAME@REVISION; `licence` as the model card names it, None where it names none."""

    reference: str
    revision: str
    licence: str | None
    fetched: str  # date and time, UTC
    files: Mapping[str, AssetFile]
    format: int = FORMAT

    __pydantic_config__ = ConfigDict(extra="forbid")

    def write(self, folder: Path) -> None:
        write_json(folder / MANIFEST_NAME, {**asdict(self), "files": {k: asdict(v) for k, v in self.files.items()}})


def read_manifest(folder: Path) -> AssetManifest | None:
    """The manifest of a fetched asset, None where there is none; DataError where it cannot be read."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    try:
        values: Any = json.loads(path.read_text())
        manifest = TypeAdapter(AssetManifest).validate_python(values)
    except (ValueError, ValidationError) as error:
        raise DataError(
            f"{path} is damaged ({type(error).__name__}). Remove {folder} and fetch the asset again."
        ) from None
    if manifest.format != FORMAT:
        raise DataError(f"{path} has format {manifest.format}, but {FORMAT} is needed. Fetch the asset again.")
    return manifest


def differences(folder: Path, manifest: AssetManifest, hashed: bool) -> list[str]:
    """What is missing, changed or not in the manifest, one line per file; without `hashed` only sizes are compared."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found.pop(MANIFEST_NAME, None)
    problems = [f"{name} is missing" for name in sorted(manifest.files.keys() - found.keys())]
    for name, recorded in sorted(manifest.files.items()):
        if name not in found:
            continue
        size = found[name].stat().st_size
        if size != recorded.size_bytes:
            problems.append(f"{name} has {size} bytes, but came with {recorded.size_bytes}")
        elif hashed and (sha256 := sha256_file(found[name])) != recorded.sha256:
            problems.append(f"{name} has SHA-256 {sha256}, but came with {recorded.sha256}")
    if hashed:
        problems += [f"{name} did not come with the asset" for name in sorted(found.keys() - manifest.files.keys())]
    return problems
