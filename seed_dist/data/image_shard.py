"""Makes one shard of images and captions from a slice of the source; runs in a worker process, which needs no torch.

What a shard holds depends on its slice alone: keys are positions in the source, so a rejected pair leaves a gap and
moves nothing else. Shards can be made in any order, by any number of workers, again after a crash, with the same
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seed_dist.data.assembly import Reject, ShardRecord
from seed_dist.data.cells import CellReader
from seed_dist.data.codec import check_image
from seed_dist.data.folder_source import MAX_CAPTION_BYTES
from seed_dist.data.index import IndexRow
from seed_dist.data.manifest import ShardEntry
from seed_dist.data.pairs import Cell, Pair
from seed_dist.data.writer import TarFile, open_shard
from seed_dist.faults import fault_point
from seed_dist.pixels import UnusableImageError

KEY_DIGITS = 9  # fixed width, no dots: webdataset takes everything before the first dot as the key


@dataclass(frozen=True)
class ShardTask:
    """Pairs `first`, `first` + 1, ... of the source for the file `folder`/`name`; images are relative to `root`."""

    folder: Path
    name: str
    number: int
    first: int
    root: Path
    pairs: tuple[Pair, ...]


class UnusablePairError(ValueError):
    """A pair that cannot enter a shard: `reason` for counting, the text for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


@dataclass(frozen=True)
class _Sample:
    key: str
    ext: str
    image: bytes
    caption: str


def write_image_shard(task: ShardTask) -> ShardRecord:
    """Check and write all pairs of a task; without a usable one there is no file and `entry.samples` is 0."""
    rows, rejects = [], []
    path = task.folder / task.name
    with open_shard(path) as shard, CellReader() as cells:
        for position, pair in enumerate(task.pairs, task.first):
            try:
                sample = _checked_sample(f"{position:0{KEY_DIGITS}d}", pair, task.root, cells)
            except (UnusablePairError, UnusableImageError) as problem:
                rejects.append(Reject(pair.name, problem.reason, str(problem)))
                continue
            rows.append(_add(shard, sample))
            fault_point("shard.sample_written", 0, position)
    fault_point("shard.file_written", 0, task.number)
    if not rows:
        path.unlink()
        return ShardRecord(ShardEntry(task.name, 0, 0, ""), (), tuple(rejects))
    return ShardRecord(shard.entry(len(rows)), tuple(rows), tuple(rejects))


def _add(shard: TarFile, sample: _Sample) -> IndexRow:
    """Both members, in the order of their names as tar programs would pack them."""
    members = {sample.ext: sample.image, "txt": sample.caption.encode()}
    places = {ext: shard.add(f"{sample.key}.{ext}", members[ext]) for ext in sorted(members)}
    place = places[sample.ext]
    return IndexRow(sample.key, place.offset, place.size, place.checksum, sample.caption, sample.ext)


def _checked_sample(key: str, pair: Pair, root: Path, cells: CellReader) -> _Sample:
    if pair.problem is not None:
        raise UnusablePairError(*pair.problem)
    caption = checked_caption(pair.caption)
    ext, image = check_image(_image_bytes(pair, root, cells))
    return _Sample(key, ext, image, caption)


def checked_caption(raw: bytes) -> str:
    """The caption as text, every run of white space and control characters one space. Raises UnusablePairError."""
    if len(raw) > MAX_CAPTION_BYTES:
        raise UnusablePairError("caption_too_long", f"more than {MAX_CAPTION_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnusablePairError("caption_not_utf8", f"byte 0x{raw[error.start]:02x} at {error.start}") from None
    caption = " ".join("".join(c if c.isprintable() else _printable(c) for c in text).split())
    if not caption:
        raise UnusablePairError("empty_caption", f"{len(raw)} bytes, nothing but white space")
    return caption


def _printable(character: str) -> str:
    """Controls (NUL among them) become white space; other unprintable ones, such as the joiners of emoji, stay."""
    return " " if ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 else character


def _image_bytes(pair: Pair, root: Path, cells: CellReader) -> bytes:
    if isinstance(pair.image, Cell):
        data = cells.read(pair.image)
        if data is None:
            raise UnusablePairError("missing_image", "the image column is empty in this row")
        return data
    assert pair.image is not None, f"{pair.name} has neither an image nor a problem"
    try:
        return (root / pair.image).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        raise UnusablePairError("missing_image", "there is no file of that name") from None
    except PermissionError:
        raise UnusablePairError("unreadable_image", "the file may not be read: permission denied") from None
