"""A picture's line of output, its name, a tab and its ids from left to right: written and read back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from seed_dist.errors import DataError
from seed_dist.models.image_ids import checked_ids

_SHOWN = 10


@dataclass(frozen=True)
class Line:
    """`ids` int64 [Q]; the name has no line breaks or tabs."""

    name: str
    ids: Tensor

    def __str__(self) -> str:
        return f"{self.name}\t{' '.join(map(str, self.ids.tolist()))}"


def read_lines(lines: Iterable[str], origin: str, queries: int, size: int) -> list[Line]:
    """All lines but empty ones. DataError lists those that are no name with `queries` ids of a codebook of `size`."""
    found, problems = [], []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        name, _, words = text.rpartition("\t")
        try:
            found.append(Line(name, checked_ids([[int(word) for word in words.split()]], queries, size)[0]))
        except (ValueError, DataError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = [f"and {len(problems) - _SHOWN} more lines"] if len(problems) > _SHOWN else []
        listed = "\n  ".join([*problems[:_SHOWN], *more])
        raise DataError(
            f"{origin} has lines that are not a name, a tab and ids; nothing was painted. Give what this command "
            f"printed for this tokenizer, without its messages.\n  {listed}"
        )
    return found
