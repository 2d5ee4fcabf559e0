"""What a set of images is asked to be made from and how; kept beside the set, so that it can be made again.

    FOLDER/.source.json    sources as absolute paths, and every option that changes what is written

Processes that join a work compare their own request with it, and `data_prep/verify.py --repair` makes broken shards
again by it. The manifest does not know it: the same pairs at another place give the same set.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from seed_dist.data.filters import Filters
from seed_dist.data.image_policy import ImagePolicy
from seed_dist.data.leases import STALE_AFTER_S
from seed_dist.data.patience import Patience
from seed_dist.data.table_source import Columns
from seed_dist.errors import DataError, MismatchError
from seed_dist.fsio import write_json

REQUEST_NAME = ".source.json"


@dataclass(frozen=True)
class ShardOptions:
    """How to shard. `workers`, the share of rejects that is put up with, `patience`, `update` and `stale_after_s` do
    not change what is written, where the source answers.

    A process on another machine that has been silent for `stale_after_s` counts as dead, and its shards are taken over.
    """

    shard_samples: int = 1000
    max_reject_fraction: float = 0.01
    workers: int = field(default_factory=lambda: min(2, os.cpu_count() or 1))
    captions: Path | None = None
    columns: Columns = field(default_factory=Columns)
    hash_range: tuple[float, float] = (0.0, 1.0)  # keep the pairs whose name hashes into this part of 0..1
    policy: ImagePolicy = field(default_factory=ImagePolicy)
    filters: Filters = field(default_factory=Filters)
    patience: Patience = field(default_factory=Patience)
    update: bool = False  # the set may be of an earlier state of the source: make anew what changed
    stale_after_s: float = STALE_AFTER_S


_WITHOUT_EFFECT = ("max_reject_fraction", "workers", "patience", "update", "stale_after_s")


@dataclass(frozen=True)
class Request:
    """`options` holds those of ShardOptions that change what is written, as JSON has them."""

    sources: list[str]
    options: dict[str, Any]

    @classmethod
    def of(cls, sources: Sequence[Path], options: ShardOptions) -> Request:
        values = {name: value for name, value in asdict(options).items() if name not in _WITHOUT_EFFECT}
        values["captions"] = None if options.captions is None else _captions(options.captions)
        return cls([os.path.abspath(path) for path in sources], json.loads(json.dumps(values)))  # noqa: PTH100 - patterns

    def shard_options(self, workers: int) -> ShardOptions:
        """The options again, for `workers` processes and any number of rejects."""
        values = dict(self.options)
        columns = values.pop("columns")
        columns["splits"] = tuple(columns["splits"])
        columns["at_least"] = tuple((name, least) for name, least in columns["at_least"])
        captions = values.pop("captions")
        return ShardOptions(
            shard_samples=values["shard_samples"],
            captions=None if captions is None else Path(captions),
            columns=Columns(**columns),
            hash_range=tuple(values["hash_range"]),
            policy=ImagePolicy(**values["policy"]),
            filters=Filters(**values["filters"]),
            max_reject_fraction=1.0,
            workers=workers,
        )

    def require_same(self, running: Request, folder: Path, owner: object) -> None:
        """MismatchError with both values where the set in `folder`, that `owner` is making, is another one."""
        found, asked = _flat(asdict(running)), _flat(asdict(self))
        for name in sorted(found.keys() | asked.keys()):
            if found.get(name) != asked.get(name):
                raise MismatchError(
                    f"{name} of {folder}, which {owner} is making,",
                    found.get(name),
                    asked.get(name),
                    "Give the same to join that work, wait for its end, or choose another folder.",
                )


def save_request(folder: Path, request: Request) -> None:
    write_json(folder / REQUEST_NAME, asdict(request))


def load_request(folder: Path) -> Request:
    """DataError where there is none."""
    path = folder / REQUEST_NAME
    try:
        return Request(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise DataError(f"{path} is missing, so nothing tells what the set was made from.") from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}), so nothing tells what the set was made from.") from None


def _captions(path: Path) -> str:
    """Absolute where it is found from here; otherwise it is relative to the source."""
    return os.path.abspath(path) if path.exists() or glob.glob(str(path)) else str(path)  # noqa: PTH100, PTH207


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as {dotted name: value}, without the leading `options`."""
    if not isinstance(value, dict):
        return {prefix.removeprefix("options."): value}
    pairs = (_flat(part, f"{prefix}.{name}" if prefix else name).items() for name, part in value.items())
    return {name: part for items in pairs for name, part in items}
