"""What the nodes of a run last said of their memory: the newest line of each RUN/nodes/HOST.jsonl."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seed_dist.obs.journal import Record, parse_journal
from seed_dist.obs.node_sampler import NODES

_TAIL_BYTES = 1 << 14


@dataclass(frozen=True)
class NodeMemory:
    """One node at its newest sample, `age_s` ago. `gpu_*`: of its fullest GPU; None where nvidia-smi gave nothing."""

    host: str
    age_s: float
    host_used_bytes: int
    host_total_bytes: int
    gpu_used_bytes: int | None
    gpu_total_bytes: int | None


def node_memory(run: Path, since_s: float) -> list[NodeMemory]:
    """The nodes that were sampled after `since_s` (seconds since 1970), by name: those of an earlier attempt are gone.
    Where there are none, all that ever were.
    """
    found = [(path.stem, record) for path in sorted((run / NODES).glob("*.jsonl")) for record in _newest(path)]
    present = [(host, record) for host, record in found if float(record["time_s"]) >= since_s]
    return [_node(host, record) for host, record in present or found]


def _newest(path: Path) -> Iterator[Record]:
    """The last whole line; nothing of a file that has none."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
        records = parse_journal(file.read().decode("utf-8", errors="replace"))
    yield from [record for record in records if "host_memory_used_bytes" in record][-1:]


def _node(host: str, record: Record) -> NodeMemory:
    used, total = record.get("gpu_memory_used_bytes"), record.get("gpu_memory_total_bytes")
    return NodeMemory(
        host=host,
        age_s=time.time() - float(record["time_s"]),
        host_used_bytes=int(record["host_memory_used_bytes"]),
        host_total_bytes=int(record["host_memory_total_bytes"]),
        gpu_used_bytes=None if used is None else int(used),
        gpu_total_bytes=None if total is None else int(total),
    )
