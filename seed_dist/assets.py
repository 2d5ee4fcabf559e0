"""Where frozen weights live: `embedded:NAME` ships with the package, anything else is a local folder."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from seed_dist.errors import ConfigError
from seed_dist.fsio import fingerprint, sha256_file

EMBEDDED = Path(__file__).parent / "glyphs" / "weights"
_PREFIX = "embedded:"


def resolve(reference: str) -> Path:
    """The folder of a backbone reference; ConfigError names what was looked for, what exists and what to do."""
    if reference.startswith(_PREFIX):
        folder = EMBEDDED / reference.removeprefix(_PREFIX)
        if not folder.is_dir():
            names = ", ".join(f"{_PREFIX}{path.name}" for path in sorted(EMBEDDED.iterdir()) if path.is_dir())
            raise ConfigError([f"backbone {reference!r} does not ship with the package; these do: {names}"])
        return folder
    folder = Path(reference).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            [
                f"backbone {reference!r} is no folder (looked for {folder.absolute()}); put the model's folder "
                "(configuration and safetensors) there, or say where it is with --set backbones.OPTION=PATH, OPTION "
                f"being the one that is {reference!r}; those that ship with the package are {_PREFIX}NAME"
            ]
        )
    return folder


@lru_cache(maxsize=16)
def weights_sha256(folder: Path) -> str:
    """Fingerprint (16 hex digits) of every weight and configuration file of a backbone folder, names included."""
    kinds = (".safetensors", ".json")
    files = sorted(path for path in folder.rglob("*") if path.suffix in kinds)
    if not files:
        raise ConfigError([f"backbone folder {folder} holds no .safetensors or .json file; check the path"])
    return fingerprint({str(path.relative_to(folder)): sha256_file(path) for path in files})
