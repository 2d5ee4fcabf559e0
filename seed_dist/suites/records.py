"""What a suite found, on the disk: one file of lines per chunk of examples, arrays beside it, both with a checksum.

    records/SET/SUITE/identity.json        what these records are of; anything else is refused
    records/SET/SUITE/chunk-000000.jsonl   a head with checksums, then one line per example
    records/SET/SUITE/chunk-000000.npz     the examples' arrays, where there are any; without pickle
    records/SET/SUITE/seconds.json         what all attempts took together, but for rounds that a kill cut short

A chunk is there when its .jsonl is, since that is written last and appears whole. Which examples a chunk holds follows
from its number alone, so it does not matter which rank made it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seed_dist.errors import DataError, MismatchError
from seed_dist.fsio import atomic_file, sha256_bytes, write_json, write_text
from seed_dist.suites.suite import Record

IDENTITY, _SECONDS = "identity.json", "seconds.json"
_NOT_THE_SAME = "Give another --out, or delete that folder to measure anew."


@dataclass(frozen=True)
class RecordFolder:
    """The chunks of one suite on one set. `keys`: of all examples, in their order; `chunk`: examples per chunk."""

    folder: Path
    keys: Sequence[str]
    chunk: int

    @property
    def chunks(self) -> int:
        return -(-len(self.keys) // self.chunk)

    def rows(self, number: int) -> range:
        """Which examples a chunk holds."""
        return range(number * self.chunk, min((number + 1) * self.chunk, len(self.keys)))

    def claim(self, identity: dict[str, Any]) -> None:
        """Say what the records are of, or see that they are of it. MismatchError names all that differs."""
        path, wanted = self.folder / IDENTITY, flat({**identity, "chunk": self.chunk, "examples": len(self.keys)})
        if not path.is_file():
            write_json(path, wanted)
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}). {_NOT_THE_SAME}") from error
        if names := [name for name in sorted({**found, **wanted}) if found.get(name) != wanted.get(name)]:
            raise MismatchError(
                f"what the records in {self.folder} are of",
                {name: found.get(name) for name in names},
                {name: wanted.get(name) for name in names},
                _NOT_THE_SAME,
            )

    def missing(self) -> list[int]:
        """Chunks that are not there or not whole."""
        return [number for number in range(self.chunks) if self._read(number) is None]

    def write(self, number: int, records: Sequence[Record]) -> None:
        """Keep a chunk's records. DataError where they are not those of its examples, in order."""
        wanted = [self.keys[row] for row in self.rows(number)]
        if (found := [record.key for record in records]) != wanted:
            raise DataError(f"{self.folder}: chunk {number} is to hold {wanted[:3]} ..., not {found[:3]} ...")
        head: dict[str, Any] = {"chunk": number, "records": len(records), "arrays_sha256": None}
        if any(record.arrays for record in records):
            data = _packed(records)
            head["arrays_sha256"] = sha256_bytes(data)
            with atomic_file(self._path(number, "npz")) as file:
                file.write(data)
        lines = "".join(_line({"key": record.key, **record.fields}) for record in records)
        head["lines_sha256"] = sha256_bytes(lines.encode())
        write_text(self._path(number, "jsonl"), _line(head) + lines)

    def add_seconds(self, more_s: float) -> None:
        """Count time that was spent on these records."""
        write_json(self.folder / _SECONDS, {"seconds": self.seconds() + more_s})

    def seconds(self) -> float:
        """What all attempts have taken so far. DataError where that cannot be read."""
        path = self.folder / _SECONDS
        try:
            return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.is_file() else 0.0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} cannot be read ({error}). Delete it: time is counted from then on.") from error

    def read(self) -> list[Record]:
        """All records in the order of the set. DataError names a chunk that is gone or damaged."""
        found: list[Record] = []
        for number in range(self.chunks):
            records = self._read(number)
            if records is None:
                path = self._path(number, "jsonl")
                raise DataError(f"{path} is gone or damaged. Run the same command again: it makes that chunk anew.")
            found += records
        return found

    def _read(self, number: int) -> list[Record] | None:
        """A chunk's records; None where it is not whole."""
        try:
            first, _, lines = self._path(number, "jsonl").read_text(encoding="utf-8").partition("\n")
            head = json.loads(first)
            if sha256_bytes(lines.encode()) != head["lines_sha256"]:
                return None
            arrays: list[dict[str, npt.NDArray[Any]]] = [{} for _ in self.rows(number)]
            if head["arrays_sha256"] is not None:
                data = self._path(number, "npz").read_bytes()
                if sha256_bytes(data) != head["arrays_sha256"]:
                    return None
                arrays = _unpacked(data, len(arrays))
            values = [json.loads(line) for line in lines.splitlines()]
            if [value["key"] for value in values] != [self.keys[row] for row in self.rows(number)]:
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return [Record(value.pop("key"), value, own) for value, own in zip(values, arrays, strict=True)]

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"chunk-{number:06d}.{kind}"


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested objects as `section.option` -> value, as JSON gives them back."""
    if not isinstance(value, dict) or not value:
        return {prefix: json.loads(json.dumps(value))}
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= flat(item, f"{prefix}.{name}" if prefix else str(name))
    return found


def _line(value: dict[str, Any]) -> str:
    # In ASCII: a text may hold characters that `splitlines` would end a line at.
    return json.dumps(value, sort_keys=True, allow_nan=False) + "\n"


def _packed(records: Sequence[Record]) -> bytes:
    """An array that all records have in one shape and type is stacked; others are kept one by one, as NAME/ROW."""
    members: dict[str, npt.NDArray[Any]] = {}
    for name in dict.fromkeys(name for record in records for name in record.arrays):
        own = {row: np.asarray(record.arrays[name]) for row, record in enumerate(records) if name in record.arrays}
        if len(own) == len(records) and len({(array.shape, array.dtype) for array in own.values()}) == 1:
            members[name] = np.stack(list(own.values()))
        else:
            members |= {f"{name}/{row}": array for row, array in own.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **members)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpacked(data: bytes, count: int) -> list[dict[str, npt.NDArray[Any]]]:
    arrays: list[dict[str, npt.NDArray[Any]]] = [{} for _ in range(count)]
    with np.load(io.BytesIO(data), allow_pickle=False) as members:
        for member in members.files:
            name, _, row = member.partition("/")
            values = members[member]
            for place, own in enumerate(arrays) if not row else []:
                own[name] = values[place]
            if row:
                arrays[int(row)][name] = values
    return arrays
