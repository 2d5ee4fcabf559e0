"""What a foreign webdataset holds that would be lost or misread, by data_prep/shard.py or by webdataset itself.

webdataset takes everything before the first dot of a name as the key, and ends a sample where the key changes; tars
that were packed by other means break that without any message. Nothing is unpacked, no pickle is opened.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from seed_dist.data.codec import check_image
from seed_dist.data.image_reads import MAX_IMAGE_BYTES
from seed_dist.data.pairs import IMAGE_SUFFIXES, MAX_CAPTION_BYTES, readable
from seed_dist.data.table_source import Columns
from seed_dist.data.tar_members import DamagedTarError, Member, tar_members
from seed_dist.data.tar_source import MAX_JSON_BYTES, first_dot, tar_pairs
from seed_dist.pixels import UnusableImageError

_CAPTIONS = frozenset({".txt", ".json"})
_PICKLES = frozenset({".pyd", ".pickle", ".pkl", ".pth", ".pt"})
# Problems of tar_pairs that are of the joining, and what they are called here.
_JOINING = {
    "missing_image": "missing_image",
    "missing_caption": "missing_caption",
    "malformed_json": "malformed_json",
    "duplicate_name": "several_images",
}
_SHOWN = 3

# Kind of finding -> what it means for the reader.
MEANINGS = {
    "damaged_tar": "what follows is lost to every reader",
    "unsafe_member": "a link, device or name that leads out of the folder: left out here; unpacking it is dangerous",
    "pickle": "it can run code when it is opened: left out here; webdataset decodes it unless WDS_SECURE=1",
    "unknown_member": "left out here; webdataset hands it on as bytes",
    "dot_in_key": "webdataset ends the key at the first dot: samples merge or lose their picture there",
    "duplicate_name": "the same name again: webdataset stops with an error, here it is another sample",
    "not_adjacent": "a key that comes back after others: webdataset makes two samples of it; here they are joined",
    "missing_image": "a caption without picture: left out here; webdataset hands on a sample without it",
    "missing_caption": "a picture without caption: left out here; webdataset hands on a sample without it",
    "malformed_json": "a .json that cannot be read: its picture is left out here",
    "several_images": "more than one picture of a name: the first is taken here",
    "caption_not_utf8": "left out here; webdataset's decoder stops with an error",
    "empty_caption": "left out here",
    "empty_member": "a file of no bytes",
    "too_large": "a picture above 256 MiB, a .txt above 64 KiB or a .json above 1 MiB: left out here",
    "no_ending": "webdataset skips names without a dot",
    "hidden_member": "its name begins with a dot: left out here; webdataset takes it for a sample without key",
    "unreadable_image": "a picture that cannot be decoded: left out here; webdataset's decoder stops with an error",
}  # fmt: skip


@dataclass
class Report:
    """What tars hold: counts by kind of finding with the first names, and totals."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)
    tars: int = 0
    members: int = 0
    pairs: int = 0  # with a picture and a caption, as data_prep/shard.py joins them
    image_bytes: int = 0
    largest_bytes: int = 0

    def add(self, kind: str, name: str) -> None:
        self.counts[kind] += 1
        shown = self.first.setdefault(kind, [])
        if len(shown) < _SHOWN:
            shown.append(name)

    def lines(self) -> Iterator[str]:
        """For people: totals, then a line per kind of finding, the most frequent first."""
        yield (
            f"{self.tars} tars, {self.members} members, {self.pairs} pictures with a caption, "
            f"{self.image_bytes} bytes of pictures, the largest {self.largest_bytes}"
        )
        for kind, count in self.counts.most_common():
            yield f"  {kind:<18} {count:>8}  {MEANINGS[kind]}"
            yield f"  {'':<18} {'':>8}  {', '.join(self.first[kind])}{', ...' if count > _SHOWN else ''}"


def lint_tar(path: Path, report: Report, *, decode: bool = False) -> None:
    """Add what one tar holds to `report`; with `decode` every picture is decoded to its last pixel."""
    report.tars += 1
    names: set[str] = set()
    keys: set[str] = set()  # as webdataset has them
    last = None
    try:
        with path.open("rb") as file:
            for member in tar_members(path):
                report.members += 1
                shown = f"{path.name}/{readable(member.name)}"
                for kind in _of_name(member, names):
                    report.add(kind, shown)
                key = first_dot(member.name)
                if key != last and key in keys:
                    report.add("not_adjacent", shown)
                keys.add(key)
                last = key
                if not _is_closed(member):
                    _take(member, file, report, shown)
                    if decode and _suffix(member.name) in IMAGE_SUFFIXES:
                        _decode(member, file, report, shown)
    except DamagedTarError as error:
        report.add("damaged_tar", f"{path.name} ({error})")
    except OSError as error:
        report.add("damaged_tar", f"{path.name} (it cannot be read: {error.strerror})")
    _join(path, report)


def _of_name(member: Member, names: set[str]) -> Iterator[str]:
    """What can be said by a member's header; `names` are those before it."""
    base, suffix = os.path.basename(member.name), _suffix(member.name)  # noqa: PTH119 - members are no paths here
    if member.fault is not None:
        yield "unsafe_member"
    elif base.startswith("."):
        yield "hidden_member"
    elif "." not in base:
        yield "no_ending"
    elif suffix in _PICKLES:
        yield "pickle"
    elif suffix not in IMAGE_SUFFIXES | _CAPTIONS:
        yield "unknown_member"
    elif base.count(".") > 1:
        yield "dot_in_key"
    if member.name in names:
        yield "duplicate_name"
    names.add(member.name)


def _is_closed(member: Member) -> bool:
    """Whether data_prep/shard.py leaves it closed."""
    hidden = os.path.basename(member.name).startswith(".")  # noqa: PTH119
    return member.fault is not None or hidden or _suffix(member.name) not in IMAGE_SUFFIXES | _CAPTIONS


def _take(member: Member, file: IO[bytes], report: Report, shown: str) -> None:
    if member.size == 0:
        report.add("empty_member", shown)
    if _suffix(member.name) in IMAGE_SUFFIXES:
        report.image_bytes += member.size
        report.largest_bytes = max(report.largest_bytes, member.size)
        if member.size > MAX_IMAGE_BYTES:
            report.add("too_large", shown)
        return
    is_text = _suffix(member.name) == ".txt"
    if member.size > (MAX_CAPTION_BYTES if is_text else MAX_JSON_BYTES):
        report.add("too_large", shown)
        return
    file.seek(member.offset)
    data = file.read(member.size)
    try:
        if not data.decode("utf-8-sig").strip() and member.size and is_text:
            report.add("empty_caption", shown)
    except UnicodeDecodeError:
        report.add("caption_not_utf8", shown)


def _decode(member: Member, file: IO[bytes], report: Report, shown: str) -> None:
    if member.size > MAX_IMAGE_BYTES:
        return
    file.seek(member.offset)
    try:
        check_image(file.read(member.size))
    except UnusableImageError as error:
        report.add("unreadable_image", f"{shown} ({error})")


def _join(path: Path, report: Report) -> None:
    """How data_prep/shard.py joins the members; what it says of single ones is found by their headers."""
    for pair in tar_pairs(path, Columns()):
        if pair.problem is None:
            report.pairs += 1
        elif (kind := _JOINING.get(pair.problem[0])) is not None:
            report.add(kind, pair.name)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122
