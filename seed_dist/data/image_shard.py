"""Makes one shard of images and captions from a slice of the source; runs in a worker process, which needs no torch.

What a shard holds depends on its slice alone: keys are positions in the source, so a rejected pair leaves a gap and
moves nothing else. Shards can be made in any order, by any number of workers, again after a crash, with the same
bytes.

A sample is KEY.jpg (or .png, .webp) and KEY.txt; an image with several captions has the first in KEY.txt and all of
them in KEY.json, as {"captions": [...]}.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from seed_dist.data.assembly import ShardRecord
from seed_dist.data.codec import Result, with_checked
from seed_dist.data.filters import Filters, UnusablePairError
from seed_dist.data.image_policy import ImagePolicy, stored_image, upright_size
from seed_dist.data.image_reads import images_ahead
from seed_dist.data.index import IndexRow
from seed_dist.data.leases import Lease
from seed_dist.data.listing import read_slice
from seed_dist.data.manifest import ShardEntry
from seed_dist.data.pairs import MAX_CAPTION_BYTES, Pair
from seed_dist.data.patience import Patience
from seed_dist.data.reject_list import Reject
from seed_dist.data.writer import TarFile, open_shard
from seed_dist.faults import fault_point
from seed_dist.pixels import UnusableImageError

KEY_DIGITS = 9  # fixed width, no dots: webdataset takes everything before the first dot as the key


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
    patience: Patience = field(default_factory=Patience)
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


@dataclass(frozen=True)
class Candidate:
    """What was read of a pair: its usable captions (one at least), those that are lost, and its image."""

    captions: tuple[str, ...]
    lost: tuple[Reject, ...]
    image: bytes


def write_image_shard(task: ShardTask, lease: Lease | None = None) -> ShardRecord:
    """Check and write all pairs of a task; without a usable one there is no file and `entry.samples` is 0.

    Raises LeaseLostError, and leaves nothing, where the lease was lost meanwhile, DataError where the source hangs.
    """
    rows, rejects = [], []
    path = task.folder / task.name
    pairs = read_slice(task.listing, task.number)
    copies = {position - task.first: original for position, original in task.copies.items()}
    with open_shard(path) as shard, closing(candidates(pairs, task.filters, task.patience, copies)) as found:
        for position, (pair, candidate) in enumerate(zip(pairs, found, strict=True), task.first):
            try:
                sample = _checked_sample(candidate, task)
            except (UnusablePairError, UnusableImageError) as problem:
                rejects.append(Reject(pair.name, problem.reason, str(problem)))
                continue
            rejects += [] if isinstance(candidate, UnusablePairError) else candidate.lost
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


def candidates(
    pairs: Sequence[Pair], filters: Filters, patience: Patience, copies: Mapping[int, int] | None = None
) -> Generator[Candidate | UnusablePairError, None, None]:
    """For each pair, in order: its usable captions and the bytes of its image, or why it is left out.

    `copies` maps numbers of `pairs` to the positions of pairs with the same picture; of these no image is read.
    """
    judged = [_judged(pair, filters, (copies or {}).get(number)) for number, pair in enumerate(pairs)]
    places = (
        None if isinstance(found, UnusablePairError) else pair.image for pair, found in zip(pairs, judged, strict=True)
    )
    with closing(images_ahead(places, patience)) as images:
        for found, image in zip(judged, images, strict=True):
            if isinstance(found, UnusablePairError):
                yield found
            elif isinstance(image, UnusablePairError):
                yield image
            else:
                assert image is not None, "a pair without a problem has an image"
                yield Candidate(*found, image)


def _judged(
    pair: Pair, filters: Filters, original: int | None
) -> tuple[tuple[str, ...], tuple[Reject, ...]] | UnusablePairError:
    """The pair's usable captions and the others; or why it is left out."""
    try:
        captions = usable_captions(pair, filters)
    except UnusablePairError as error:
        return error
    if original is not None:
        return UnusablePairError("duplicate_image", f"the same picture as {original:0{KEY_DIGITS}d}")
    return captions


def _checked_sample(candidate: Candidate | UnusablePairError, task: ShardTask) -> Sample:
    if isinstance(candidate, UnusablePairError):
        raise candidate
    data = candidate.image
    ext, image = use_image(data, task.filters, lambda picture: stored_image(picture, data, task.policy))
    return Sample(ext, image, candidate.captions)


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


def usable_captions(pair: Pair, filters: Filters) -> tuple[tuple[str, ...], tuple[Reject, ...]]:
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
    rejects = (Reject(f"{pair.name} caption {number}", error.reason, str(error)) for number, error in lost)
    return tuple(captions), tuple(rejects)


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
