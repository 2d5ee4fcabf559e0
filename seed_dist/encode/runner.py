"""Runs encoders over a finished set: shards of the same names with the same keys, each atomic, restartable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from seed_dist.data.assembly import Assembly, Plan
from seed_dist.data.manifest import Manifest, load_manifest
from seed_dist.data.progress import progress_bar
from seed_dist.data.reader import FeatureShards, ImageShards
from seed_dist.encode.batches import Batch, Source, batches_ahead
from seed_dist.encode.encoder import Encoder
from seed_dist.encode.feature_shard import open_feature_shard
from seed_dist.faults import fault_point
from seed_dist.fsio import folder_lock


class _Job:
    """One target on its way to a finished folder."""

    def __init__(self, folder: Path, encoder: Encoder, source: Manifest) -> None:
        encoder.check_source(source)
        self.folder, self.encoder, self.details = folder, encoder, encoder.details()
        images = source.parents["images"] if source.kind == "features" else source.fingerprint
        parents = {"images": images, encoder.source: source.fingerprint, "weights": self.details["weights_sha256"]}
        details = {"target": encoder.target, "source": encoder.source, **self.details}
        self.assembly = Assembly(folder, Plan("features", parents, details))
        self.finished = self.assembly.begin()
        self.assembly.discard_partials()
        entries = () if self.finished else source.shards
        self.done = {entry.name for entry in entries if self.assembly.finished(entry.name) is not None}

    def needs(self, shard: str) -> bool:
        return self.finished is None and shard not in self.done


def encode_split(
    source_folder: Path, outputs: Mapping[Path, Encoder], batch_size: int = 256, threads: int = 1
) -> list[Manifest]:
    """Encode a finished set into one folder per encoder, all from one pass over the source; manifests in that order.

    Shards that an earlier run finished are kept; a folder that is finished already is left as it is. Batches never
    reach over the end of a shard, so a continued run gives the same bytes. `threads` batches are read and decoded
    ahead. Raises DataError for an unfinished or damaged source or non-finite features, MismatchError where a folder
    holds features of other weights or another source, LockedError while another job writes there.
    """
    kind = load_manifest(source_folder).kind
    source: Source = ImageShards(source_folder) if kind == "images" else FeatureShards(source_folder)
    with ExitStack() as locks:
        for folder in outputs:
            locks.enter_context(folder_lock(folder, "data_prep/encode.py"))
        jobs = [_Job(folder, encoder, source.manifest) for folder, encoder in outputs.items()]
        _encode(source, jobs, batch_size, threads)
        return [job.finished or _commit(job, source.manifest) for job in jobs]


def _commit(job: _Job, source: Manifest) -> Manifest:
    return job.assembly.commit([entry.name for entry in source.shards], {})


def _encode(source: Source, jobs: list[_Job], batch_size: int, threads: int) -> None:
    """Make every shard that some job needs."""
    entries = source.manifest.shards
    left = [number for number, entry in enumerate(entries) if any(job.needs(entry.name) for job in jobs)]
    if not left:
        return
    blocks = {number: _blocks(source.shard_rows(number), batch_size) for number in left}
    busy = [job.encoder for job in jobs if job.finished is None]
    preprocesses = list(dict.fromkeys(encoder.preprocess for encoder in busy if encoder.preprocess is not None))
    rows = [block for number in left for block in blocks[number]]
    names = ", ".join(encoder.target for encoder in busy)
    done = len(source) - sum(len(block) for block in rows)
    bar = progress_bar(len(source), done, f"encoding {source.folder.name}: {names}", "samples")
    with bar, closing(batches_ahead(source, rows, preprocesses, threads)) as batches:
        for number in left:
            _encode_shard(entries[number].name, len(blocks[number]), batches, jobs, bar.update)
            fault_point("encode.shard_announced", 0, number)


def _encode_shard(
    name: str, count: int, batches: Iterator[Batch], jobs: list[_Job], update: Callable[[int], object]
) -> None:
    """The next `count` batches into the shard of every job that needs it; then announce them."""
    wanted = [job for job in jobs if job.needs(name)]
    with ExitStack() as files:
        shards = [files.enter_context(open_feature_shard(job.folder / name, job.details)) for job in wanted]
        for _ in range(count):
            batch = next(batches)
            for job, shard in zip(wanted, shards, strict=True):
                shard.add(batch, job.encoder(batch))
            update(len(batch.keys))
    for job, shard in zip(wanted, shards, strict=True):
        job.assembly.announce(shard.record())
        job.done.add(name)


def _blocks(rows: range, batch_size: int) -> list[range]:
    return [range(start, min(start + batch_size, rows.stop)) for start in range(rows.start, rows.stop, batch_size)]
