"""One target of one split on its way to a finished folder, made by this process and whoever joins it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seed_dist.data.assembly import Assembly, Plan, ShardRecord
from seed_dist.data.leases import Lease, Leases
from seed_dist.data.manifest import QUARANTINED, Manifest
from seed_dist.data.reject_list import Reject
from seed_dist.encode.augmentation import Crop
from seed_dist.encode.encoder import Encoder
from seed_dist.errors import DataError
from seed_dist.fsio import sha256_file

COMMIT = "commit"  # the lease on writing index and manifest
_SHOWN_REJECTS = 3


def feature_plan(encoder: Encoder, source: Manifest, crop: Crop | None) -> Plan:
    """What stands in the manifest of the features, and must be equal for all who make them.

    Raises MismatchError where the encoder was not trained on such a source.
    """
    encoder.check_source(source)
    details: dict[str, Any] = {"target": encoder.target, "source": encoder.source, **encoder.details()}
    if crop is not None:
        details["view"] = crop.details()
    elif "view" in source.details:
        details["view"] = source.details["view"]
    images = source.parents["images"] if source.kind == "features" else source.fingerprint
    parents = {"images": images, encoder.source: source.fingerprint, "weights": details["weights_sha256"]}
    return Plan("features", parents, details)


class Job:
    """The shards of one target: which are finished, which this process may make, and the end of the whole."""

    def __init__(self, folder: Path, encoder: Encoder, source: Manifest, plan: Plan, stale_after_s: float) -> None:
        """Raises MismatchError where the folder holds features of another plan."""
        self.folder, self.encoder, self.details, self._source = folder, encoder, plan.details, source
        self._assembly = Assembly(folder, plan)
        folder.mkdir(parents=True, exist_ok=True)
        self.finished = self._begin()
        self.done: set[str] = set()
        if self.finished is not None:
            return
        self._leases = Leases(self._assembly.leases_folder, stale_after_s)
        announced = self._assembly.announced()
        self.done = {name for name in announced if self._assembly.finished(name) is not None}

    def _begin(self) -> Manifest | None:
        """The manifest of a finished set, otherwise the folders for making it."""
        while True:
            try:
                finished = self._assembly.begin()
                if finished is None:
                    self._assembly.leases_folder.mkdir(exist_ok=True)
            except FileNotFoundError:
                if not self._assembly.is_finished():
                    raise
                continue  # another process finished the set and removed its progress just now
            return finished

    def needs(self, shard: str) -> bool:
        return self.finished is None and shard not in self.done

    def claim(self, shard: str) -> Lease | None:
        """The lease on a shard; None where another process works on it or has finished it."""
        lease = self._leases.claim(shard)
        if lease is None:
            return None
        if self._assembly.is_finished() or self._assembly.finished(shard) is not None:
            self.done.add(shard)
            lease.release()
            return None
        self._assembly.discard_partials(shard)  # of an owner that died, or will find its lease lost
        return lease

    def announce(self, record: ShardRecord) -> None:
        self._assembly.announce(record)
        self.done.add(record.entry.name)

    def catch_up(self) -> None:
        """Learn what the other processes have finished."""
        if self.finished is None:
            self.done |= self._assembly.announced()

    def check_budget(self, rejects: Sequence[Reject], max_fraction: float) -> None:
        """DataError where more samples were set aside than may be; `rejects` are those known to this process."""
        if len(rejects) <= max_fraction * self._source.samples:
            return
        reasons = Counter(reject.reason for reject in rejects)
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        examples = "; ".join(
            f"{reject.source} ({reject.reason}: {reject.detail})" for reject in rejects[:_SHOWN_REJECTS]
        )
        raise DataError(
            f"features for {self.folder}: {len(rejects)} samples have none ({counts}), but --max-reject-fraction "
            f"{max_fraction:g} allows {int(max_fraction * self._source.samples)} of {self._source.samples}. For "
            f"example: {examples}. Look at those images and at the encoder's weights, or raise --max-reject-fraction."
        )

    def finish(self, max_reject_fraction: float) -> None:
        """Commit the set if all shards are announced and no other process is at it; or take note that one has."""
        if self.finished is not None:
            return
        names = [entry.name for entry in self._source.shards]
        if not self._assembly.is_finished() and set(names) <= self.done:
            lease = self._leases.claim(COMMIT)
            if lease is not None:
                with lease:
                    self._commit(names, max_reject_fraction)
        if self._assembly.is_finished():
            self.finished = self._assembly.begin()

    def _commit(self, names: Sequence[str], max_reject_fraction: float) -> None:
        if self._assembly.is_finished():
            return
        intact = {name for name in names if self._is_intact(name)}
        self.done &= intact
        if len(intact) < len(names):
            return
        rejects = [reject for record in self._assembly.records(names) for reject in record.rejects]
        self.check_budget(rejects, max_reject_fraction)
        self._assembly.commit(names, self._set_aside(names) if rejects else {})

    def _is_intact(self, shard: str) -> bool:
        """Whether a shard can stay; otherwise it is no longer announced.

        Where two processes were at a shard, one asleep, the record might describe the bytes of the one and the file
        hold those of the other, if they computed on unlike hardware. So these files are read once more.
        """
        record = self._assembly.finished(shard)
        is_sound = record is not None and (
            not self._leases.was_taken_over(shard) or sha256_file(self.folder / shard) == record.entry.sha256
        )
        if not is_sound:
            self._assembly.withdraw(shard)
        return is_sound

    def _set_aside(self, shards: Sequence[str]) -> dict[str, Any]:
        """Counts by reason and row numbers of the samples without features, for the manifest."""
        counts, first, rows = self._assembly.write_rejects(shards), 0, list[int]()
        for record in self._assembly.records(shards):
            keys = {reject.source for reject in record.rejects}
            rows += [first + place for place, row in enumerate(record.rows) if row.key in keys]
            first += len(record.rows)
        return {"rejected": dict(sorted(counts.items())), QUARANTINED: rows}
