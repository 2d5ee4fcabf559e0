"""Makes one shard of images and captions from a slice of the source; runs in a worker process, which needs no torch.

What a shard holds depends on its slice alone: keys are positions in the source, so a rejected pair leaves a gap and
moves nothing else. Shards can be made in any order, by any number of workers, again after a crash, with the same
bytes.

A sample is KEY.jpg (or .png, .webp) and KEY.txt; an image with several captions has the first in KEY.txt and all of
them in KEY.json, as {"captions": [...]}.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from PIL import Image

from seed_dist.data.assembly import Reject, ShardRecord
from seed_dist.data.cells import CellReader
from seed_dist.data.codec import Result, with_checked
from seed_dist.data.filters import Filters, UnusablePairError
from seed_dist.data.image_policy import ImagePolicy, stored_image, upright_size
from seed_dist.data.index import IndexRow
from seed_dist.data.leases import Lease
from seed_dist.data.listing import read_slice
from seed_dist.data.manifest import ShardEntry
from seed_dist.data.pairs import MAX_CAPTION_BYTES, Cell, Pair, Span, read_regular
from seed_dist.data.writer import TarFile, open_shard
from seed_dist.faults import fault_point
from seed_dist.pixels import UnusableImageError

KEY_DIGITS = 9  # fixed width, no dots: webdataset takes everything before the first dot as the key
MAX_IMAGE_BYTES = 1 << 28  # a larger file is no picture; it would have to be in memory as a whole


@dataclass(frozen=True)
class ShardTask:
    """Slice `number` of a listing for the file `folder`/`name`; its pairs are `first`, `first` + 1, ... of the source.

    `copies` maps a pair's position to that of an earlier pair with the same picture. `made_from` is the fingerprint of
    all that the shard depends on.
    """

    folder: Path
    name: str
    number: int
    first: int
    pairs: int
    listing: Path
    made_from: str
    policy: ImagePolicy = field(default_factory=ImagePolicy)
    filters: Filters = field(default_factory=Filters)
    copies: dict[int, int] = field(default_factory=dict)

    @property
    def piece(self) -> str:
        """Its name among the leases."""
        return Path(self.name).stem


@dataclass(frozen=True)
class Sample:
    """A pair that may be stored: extension and bytes of its image, its captions (one at least)."""

    ext: str
    image: bytes
    captions: tuple[str, ...]


def write_image_shard(task: ShardTask, lease: Lease | None = None) -> ShardRecord:
    """Check and write all pairs of a task; without a usable one there is no file and `entry.samples` is 0.

    Raises LeaseLostError, and leaves nothing, where the lease was lost meanwhile.
    """
    rows, rejects = [], []
    path = task.folder / task.name
    with open_shard(path) as shard, CellReader() as cells:
        for position, pair in enumerate(read_slice(task.listing, task.number), task.first):
            try:
                sample, lost = _checked_sample(position, pair, task, cells)
            except (UnusablePairError, UnusableImageError) as problem:
                rejects.append(Reject(pair.name, problem.reason, str(problem)))
                continue
            rejects += lost
            rows.append(add_sample(shard, f"{position:0{KEY_DIGITS}d}", sample))
            fault_point("shard.sample_written", 0, position)
        if lease is not None:
            lease.require_held()
    fault_point("shard.file_written", 0, task.number)
    if not rows:
        path.unlink()
        return ShardRecord(ShardEntry(task.name, 0, 0, ""), (), tuple(rejects), task.made_from)
    return ShardRecord(shard.entry(len(rows)), tuple(rows), tuple(rejects), task.made_from)


def add_sample(shard: TarFile, key: str, sample: Sample) -> IndexRow:
    """Write all members, in the order of their names as tar programs would pack them; the value is the index row."""
    first, *others = sample.captions
    members = {sample.ext: sample.image, "txt": first.encode()}
    if others:
        members["json"] = json.dumps({"captions": sample.captions}, ensure_ascii=False).encode()
    places = {ext: shard.add(f"{key}.{ext}", members[ext]) for ext in sorted(members)}
    place = places[sample.ext]
    return IndexRow(key, place.offset, place.size, place.checksum, first, sample.ext, tuple(others))


def _checked_sample(position: int, pair: Pair, task: ShardTask, cells: CellReader) -> tuple[Sample, list[Reject]]:
    """The sample, and what is lost of it though it may be stored: some of several captions."""
    captions, lost = usable_captions(pair, task.filters)
    if position in task.copies:
        raise UnusablePairError("duplicate_image", f"the same picture as {task.copies[position]:0{KEY_DIGITS}d}")
    data = image_bytes(pair, cells)
    ext, image = use_image(data, task.filters, lambda picture: stored_image(picture, data, task.policy))
    return Sample(ext, image, captions), lost


def use_image(data: bytes, filters: Filters, use: Callable[[Image.Image], Result]) -> Result:
    """What `use` makes of a wanted picture. Raises UnusableImageError, UnusablePairError."""

    def wanted(image: Image.Image) -> Result | UnusablePairError:
        try:
            filters.check_size(upright_size(image))
        except UnusablePairError as error:  # handed out, because an error in here would count as one of decoding
            return error
        return use(image)

    found = with_checked(data, wanted)
    if isinstance(found, UnusablePairError):
        raise found
    return found


def usable_captions(pair: Pair, filters: Filters) -> tuple[tuple[str, ...], list[Reject]]:
    """The captions that may be stored, and the others. Raises UnusablePairError where none is left."""
    if pair.problem is not None:
        raise UnusablePairError(*pair.problem)
    captions, lost = [], []
    for number, raw in enumerate(pair.captions, 1):
        try:
            caption = checked_caption(raw)
            filters.check_caption(caption)
        except UnusablePairError as error:
            lost.append((number, error))
        else:
            captions.append(caption)
    if not captions:
        raise lost[0][1] if lost else UnusablePairError("missing_caption", "there is no caption")
    rejects = [Reject(f"{pair.name} caption {number}", error.reason, str(error)) for number, error in lost]
    return tuple(captions), rejects


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


def image_bytes(pair: Pair, cells: CellReader) -> bytes:
    """The bytes of a pair's image. Raises UnusablePairError."""
    assert pair.image is not None, f"{pair.name} has neither an image nor a problem"
    if isinstance(pair.image, Span) and pair.image.size > MAX_IMAGE_BYTES:
        raise UnusablePairError("image_too_large", f"{pair.image.size} bytes; at most {MAX_IMAGE_BYTES}")
    data = _file_bytes(pair.image) if isinstance(pair.image, str) else _cell_bytes(pair.image, cells)
    if len(data) > MAX_IMAGE_BYTES:
        raise UnusablePairError("image_too_large", f"more than {MAX_IMAGE_BYTES} bytes")
    return data


def _file_bytes(name: str) -> bytes:
    try:
        data = read_regular(Path(name), MAX_IMAGE_BYTES + 1)
    except PermissionError:
        raise UnusablePairError("unreadable_image", "the file may not be read: permission denied") from None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise UnusablePairError("missing_image", "there is no file of that name") from None
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        raise UnusablePairError("missing_image", f"there is no such file: {error.strerror}") from None
    if data is None:
        raise UnusablePairError("missing_image", "there is no regular file of that name")
    return data


def _cell_bytes(place: Cell | Span, cells: CellReader) -> bytes:
    try:
        data = cells.read(place)
    except pa.ArrowException as error:
        raise UnusablePairError("unreadable_image", f"{place.file} is damaged: {error}"[:200]) from None
    if data is None:
        raise UnusablePairError("missing_image", "the image column is empty in this row")
    return data
