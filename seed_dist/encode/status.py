"""How far the encoding of a workspace is, over all processes that work on it; read from the files they leave."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time

from seed_dist.data.assembly import PLAN_NAME, PROGRESS
from seed_dist.data.leases import Holding, Leases
from seed_dist.data.manifest import MANIFEST_NAME, Manifest, load_manifest
from seed_dist.data.views import source_name

_WINDOW_S = 600.0  # the rate is that of the last ten minutes


@dataclass(frozen=True)
class TargetStatus:
    """One feature set. `rate` in samples per second, over all processes; None where nothing was finished lately."""

    folder: Path
    samples: int
    shards: int
    samples_done: int
    shards_done: int
    owners: tuple[Holding, ...]  # of shards, and of the end of the work
    leased: frozenset[str]  # shards that are being made
    quarantined: dict[str, int]
    rate: float | None

    @property
    def left_s(self) -> float | None:
        """Seconds until all is done at this rate."""
        return (self.samples - self.samples_done) / self.rate if self.rate else None

    def lines(self) -> Iterator[str]:
        """For people."""
        leased = len(self.leased)
        left = self.shards - self.shards_done
        share = self.samples_done / self.samples if self.samples else 1.0
        yield (
            f"{self.folder}: {share:.1%}, {self.samples_done} of {self.samples} samples; shards: {self.shards_done} "
            f"done, {leased} being made, {left - leased} free"
        )
        if self.rate is not None and left:
            yield f"  {self.rate:.1f} samples/s over the last minutes, {_duration(self.left_s or 0.0)} to go"
        for holding in self.owners:
            state = "no longer there" if holding.is_stale else "working"
            yield f"  {holding.owner} has {holding.name}, last heard of {holding.silent_s:.0f} s ago, {state}"
        for reason, count in self.quarantined.items():
            yield f"  set aside: {reason} {count}"


def workspace_status(work: Path, targets: Sequence[str] = (), splits: Sequence[str] = ()) -> list[TargetStatus]:
    """Every feature set that is begun or finished, or those of some targets (in all views) and splits."""
    found = []
    for folder in sorted((work / "features").glob("*/*")):
        target = folder.parent.name.partition(".")[0]
        if (not targets or target in targets) and (not splits or folder.name in splits):
            status = _status(work, folder)
            found += [status] if status is not None else []
    return found


def _status(work: Path, folder: Path) -> TargetStatus | None:
    if (folder / MANIFEST_NAME).exists():
        manifest = load_manifest(folder)
        count, rejected = len(manifest.shards), manifest.details.get("rejected", {})
        return TargetStatus(folder, manifest.samples, count, manifest.samples, count, (), frozenset(), rejected, None)
    progress = folder / PROGRESS
    try:
        plan = json.loads((progress / PLAN_NAME).read_bytes())
    except FileNotFoundError:
        return None
    source = _source(work, folder, plan["details"]["source"])
    samples = {Path(entry.name).stem: entry.samples for entry in source.shards}
    done = {path.stem: path.stat().st_mtime for path in progress.glob("shard-*.json")}
    owners = Leases(progress / "leases").owners()
    working = {Path(holding.name).stem for holding in owners if not holding.is_stale}
    return TargetStatus(
        folder,
        source.samples,
        len(samples),
        sum(samples[name] for name in done),
        len(done),
        tuple(owners),
        frozenset(working & samples.keys() - done.keys()),
        _quarantined(progress),
        _rate({name: (when, samples[name]) for name, when in done.items()}, progress / "leases"),
    )


def _source(work: Path, folder: Path, source: str) -> Manifest:
    """The manifest of what the features are made from; of a view, the same view."""
    if source == "images":
        return load_manifest(work / "images" / folder.name)
    return load_manifest(work / "features" / source_name(source, folder.parent.name) / folder.name)


def _quarantined(progress: Path) -> dict[str, int]:
    records = (json.loads(path.read_bytes()) for path in progress.glob("shard-*.json"))
    return dict(Counter(reason for record in records for _, reason, _ in record["rejects"]))


def _rate(done: dict[str, tuple[float, int]], leases: Path) -> float | None:
    """Samples per second of the shards finished in the last minutes, from when the first of them was begun."""
    now = time()
    recent = {name: samples for name, (when, samples) in done.items() if when > now - _WINDOW_S}
    if not recent:
        return None
    begun = [json.loads(path.read_bytes())["since"] for name in recent for path in leases.glob(f"{name}.tar.*")]
    span = now - max(now - _WINDOW_S, min(begun, default=now - _WINDOW_S))
    return sum(recent.values()) / max(span, 1e-3)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min"
    )
