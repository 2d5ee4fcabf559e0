"""The files that go to MLflow with a run: its record, export's description, cards, report; never weights.

Names there are as here: export/config.json, report.html, images/train/README.md. Each is sent once, and again when its
contents have changed, which replaces it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from seed_dist.data.manifest import CARD_NAME
from seed_dist.fsio import sha256_file
from seed_dist.obs.provenance import RUN

# Of the run directory, and of the workspace around it. What a training begins with is sent while it goes on; what may
# still be of an earlier attempt waits for its end.
_BEGUN_WITH, _ENDED_WITH = (RUN,), ("receipt.*", "export/*.json", "export/*.md")
_AROUND_BEGUN_WITH, _AROUND_ENDED_WITH = (f"images/*/{CARD_NAME}",), ("report.*", "model_card.md")
_LARGEST_BYTES = 20 << 20
_DIGITS = 16


@dataclass(frozen=True)
class RunFile:
    """`name`: where it is in MLflow, with forward slashes; `digest`: of its contents."""

    path: Path
    name: str
    digest: str


class RunFiles:
    """The files of one run directory; looked at again and again, read only when they have changed."""

    def __init__(self, run: Path) -> None:
        self._folder = run
        self._digests: dict[Path, tuple[tuple[int, int, int], str]] = {}

    def changed(self, sent: Mapping[str, str], is_training: bool) -> Iterator[RunFile]:
        """In the order of names, those of which `sent` (name -> digest) tells nothing or something else."""
        for name, path in sorted(self._there(is_training).items()):
            digest = self._digest(path)
            if digest is not None and sent.get(name) != digest:
                yield RunFile(path, name, digest)

    def _there(self, is_training: bool) -> dict[str, Path]:
        inside = (*_BEGUN_WITH, *(() if is_training else _ENDED_WITH))
        around = (*_AROUND_BEGUN_WITH, *(() if is_training else _AROUND_ENDED_WITH))
        found = {}
        for folder, patterns in ((self._folder.resolve().parent, around), (self._folder, inside)):
            for path in (path for pattern in patterns for path in folder.glob(pattern)):
                found[path.relative_to(folder).as_posix()] = path
        return found

    def _digest(self, path: Path) -> str | None:
        """None for a file that is too large, or went away just now."""
        try:
            state = path.stat()
            if state.st_size > _LARGEST_BYTES:
                return None
            seen = (state.st_mtime_ns, state.st_size, state.st_ino)  # files are replaced, never written into
            if self._digests.get(path, (None, ""))[0] != seen:
                self._digests[path] = seen, sha256_file(path)[:_DIGITS]
        except FileNotFoundError:
            return None
        return self._digests[path][1]
