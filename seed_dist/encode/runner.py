"""Runs encoders over a finished set: shards of the same names with the same keys, each atomic, restartable, by any
number of processes at once."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from seed_dist.data.leases import STALE_AFTER_S, Lease, LeaseLostError
from seed_dist.data.manifest import Manifest, load_manifest
from seed_dist.data.progress import progress_bar
from seed_dist.data.reader import FeatureShards, ImageShards
from seed_dist.data.reject_list import Reject
from seed_dist.dist.preempt import StoppedError, StopRequest
from seed_dist.encode.attempts import Attempts, Outcome
from seed_dist.encode.augmentation import Crop
from seed_dist.encode.batches import Batch, BatchMaker, Source, batches_ahead
from seed_dist.encode.encoder import Encoder
from seed_dist.encode.feature_shard import FeatureShard, open_feature_shard
from seed_dist.encode.job import Job, feature_plan
from seed_dist.faults import fault_point

_LOOKS = 12  # at what others do, in the time after which they count as dead
MAX_REJECT_FRACTION = 0.01
_LOG = logging.getLogger("seed_dist")


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode. None but `crop` changes what is written, up to the rounding of batches of another size.

    `threads` batches of `batch_size` samples are read and decoded ahead; `crop` makes an augmented view of images;
    a worker that is silent for `stale_after_s` loses its shard; it looks at `stop` after every shard.
    """

    batch_size: int = 256
    threads: int = 1
    crop: Crop | None = None
    max_reject_fraction: float = MAX_REJECT_FRACTION
    stale_after_s: float = STALE_AFTER_S
    stop: StopRequest = field(default_factory=StopRequest)


@dataclass(frozen=True)
class _Claim:
    """A shard that is this process's to make, for the jobs whose leases it has."""

    name: str
    number: int
    blocks: list[range]
    leases: dict[Job, Lease]

    def is_held(self) -> bool:
        return all(lease.is_held() for lease in self.leases.values())

    def require_held(self) -> None:
        for lease in self.leases.values():
            lease.require_held()

    def release(self) -> None:
        for lease in self.leases.values():
            lease.release()


def encode_split(
    source_folder: Path, outputs: Mapping[Path, Encoder], options: EncodeOptions | None = None
) -> list[Manifest]:
    """Encode a finished set into one folder per encoder, all from one pass over the source; manifests in that order.

    Shards that another run finished are kept; those that another process works on are left to it, and waited for, or
    taken over when it dies. A folder that is finished already is left as it is. Batches never reach over the end of a
    shard, so a continued run gives the same bytes. Raises DataError for an unfinished or damaged source and where more
    samples have no features than may be, MismatchError where a folder holds features of other weights, pre-processing,
    dtype or another source, StoppedError when `options.stop` asks for it.
    """
    options = options or EncodeOptions()
    source = open_source(source_folder)
    plans = {folder: feature_plan(encoder, source.manifest, options.crop) for folder, encoder in outputs.items()}
    jobs = [
        Job(folder, encoder, source.manifest, plans[folder], options.stale_after_s)
        for folder, encoder in outputs.items()
    ]
    if any(job.finished is None for job in jobs):
        _Worker(source, jobs, options).run()
    return [job.finished for job in jobs if job.finished is not None]


def open_source(folder: Path) -> Source:
    """A finished set of images or features."""
    return ImageShards(folder) if load_manifest(folder).kind == "images" else FeatureShards(folder)


def shard_blocks(rows: range, batch_size: int) -> list[range]:
    """The batches of a shard."""
    return [range(start, min(start + batch_size, rows.stop)) for start in range(rows.start, rows.stop, batch_size)]


class _Worker:
    """This process's share of the work."""

    def __init__(self, source: Source, jobs: list[Job], options: EncodeOptions) -> None:
        self._source, self._jobs, self._options = source, jobs, options
        self._entries = source.manifest.shards
        busy = [job.encoder for job in jobs if job.finished is None]
        preprocesses = list(dict.fromkeys(encoder.preprocess for encoder in busy if encoder.preprocess is not None))
        self._make = BatchMaker(source, preprocesses, options.crop)
        self._attempts = Attempts()
        self._rejects: dict[Job, list[Reject]] = {job: [] for job in jobs}
        title = f"encoding {source.folder.name}: {', '.join(encoder.target for encoder in busy)}"
        self._bar = progress_bar(len(source), self._samples_done(), title, "samples")

    def run(self) -> None:
        """Until all jobs are finished, by whomever."""
        with self._bar:
            while True:
                made = self._make_free_shards()
                for job in self._jobs:
                    job.finish(self._options.max_reject_fraction)
                if all(job.finished is not None for job in self._jobs):
                    return
                self._leave_if_asked()
                if not made:
                    time.sleep(self._options.stale_after_s / _LOOKS)  # others are at what is left
                self._show_progress()

    def _make_free_shards(self) -> int:
        """Make every shard that nobody works on; the value is how many were tried."""
        claimed: deque[_Claim] = deque()
        blocks = (block for claim in self._claims(claimed) for block in claim.blocks)
        made = 0
        try:
            with closing(batches_ahead(self._make, blocks, self._options.threads)) as batches:
                for first in batches:
                    claim = claimed[0]
                    self._make_shard(claim, chain([first], islice(batches, len(claim.blocks) - 1)))
                    claimed.popleft().release()
                    made += 1
                    self._show_progress()
                    fault_point("encode.shard_announced", 0, claim.number)
                    self._leave_if_asked()
        finally:
            for claim in claimed:
                claim.release()
        return made

    def _leave_if_asked(self) -> None:
        if self._options.stop and any(job.needs(entry.name) for job in self._jobs for entry in self._entries):
            raise StoppedError(self._options.stop.reason)

    def _claims(self, claimed: deque[_Claim]) -> Iterator[_Claim]:
        """Shards, each claimed when its first batch is asked for; those not done with are in `claimed`.

        Where others are at work, the next look is somewhere else: a hundred workers would ask for the same ones.
        """
        left = deque(range(len(self._entries)))
        while left:
            number = left.popleft()
            entry = self._entries[number]
            asked = {job: job.claim(entry.name) for job in self._jobs if job.needs(entry.name)}
            leases = {job: lease for job, lease in asked.items() if lease is not None}
            if leases:
                blocks = shard_blocks(self._source.shard_rows(number), self._options.batch_size)
                claimed.append(_Claim(entry.name, number, blocks, leases))
                yield claimed[-1]
            elif asked and left:
                left.rotate(-random.randrange(len(left)))

    def _make_shard(self, claim: _Claim, batches: Iterator[Batch]) -> None:
        """All batches of a shard into the shard of every job that needs it; then announce them.

        Nothing is kept where another process took over meanwhile: it has removed the unfinished files, so that even a
        process that is stopped right before the rename finds nothing to rename.
        """
        try:
            with ExitStack() as files:
                opened = (open_feature_shard(job.folder / claim.name, job.details) for job in claim.leases)
                shards = [files.enter_context(shard) for shard in opened]
                self._fill(list(claim.leases), shards, batches)
                claim.require_held()
        except (LeaseLostError, FileNotFoundError):
            if claim.is_held():
                raise
            _LOG.warning("%s was taken over by another process: this one was silent for too long", claim.name)
            return
        for job, shard in zip(claim.leases, shards, strict=True):
            job.announce(shard.record())

    def _fill(self, jobs: Sequence[Job], shards: Sequence[FeatureShard], batches: Iterator[Batch]) -> None:
        """Encode batches; a thread writes one while the next is encoded."""
        encoders = [job.encoder for job in jobs]
        writing: Future[None] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
            for batch in batches:
                outcomes = self._attempts(encoders, batch)
                if writing is not None:
                    writing.result()
                writing = pool.submit(_write, shards, batch, outcomes)
                self._bar.update(len(batch.keys))
            if writing is not None:
                writing.result()
        for job, shard in zip(jobs, shards, strict=True):
            self._rejects[job] += shard.rejects
            job.check_budget(self._rejects[job], self._options.max_reject_fraction)

    def _samples_done(self) -> int:
        """Of all processes."""
        return sum(entry.samples for entry in self._entries if not any(job.needs(entry.name) for job in self._jobs))

    def _show_progress(self) -> None:
        for job in self._jobs:
            job.catch_up()
        self._bar.update(self._samples_done() - self._bar.n)


def _write(shards: Sequence[FeatureShard], batch: Batch, outcomes: Sequence[Outcome]) -> None:
    for shard, (values, faults) in zip(shards, outcomes, strict=True):
        shard.add(batch, values, faults)
