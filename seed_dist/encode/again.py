"""Shards of finished features, encoded again for `data_prep/verify.py --repair`.

FOLDER/.source.json    the recipe that the features were made by, and the size of the batches
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_dist.config import recipe_from_dict
from seed_dist.data.assembly import Assembly, ShardRecord
from seed_dist.data.manifest import Manifest
from seed_dist.data.request import REQUEST_NAME
from seed_dist.data.views import source_folder, target_and_view
from seed_dist.encode.attempts import Attempts
from seed_dist.encode.augmentation import Crop
from seed_dist.encode.batches import BatchMaker
from seed_dist.encode.feature_shard import open_feature_shard
from seed_dist.encode.job import feature_plan
from seed_dist.encode.runner import open_source, shard_blocks
from seed_dist.encode.targets import EncoderMaker, device_for
from seed_dist.errors import DataError
from seed_dist.fsio import write_json


@dataclass(frozen=True)
class MadeBy:
    """What features were made by, as far as their manifest does not tell."""

    recipe: dict[str, Any]
    batch_size: int


def note_made_by(folder: Path, made_by: MadeBy) -> None:
    """Keep it beside features, where it is not yet."""
    if not (folder / REQUEST_NAME).exists():
        write_json(folder / REQUEST_NAME, vars(made_by))


def encode_shards(folder: Path, manifest: Manifest, shards: set[str], scratch: Path) -> Iterator[ShardRecord]:
    """Encode these shards of WORK/features/TARGET/SPLIT into `scratch`, as they were encoded; records in their order.

    Raises DataError where what they came from is not there, MismatchError where source, weights or pre-processing are
    others by now.
    """
    path = folder / REQUEST_NAME
    try:
        made_by = MadeBy(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}), so nothing tells the recipe.") from None
    recipe = recipe_from_dict(made_by.recipe, str(path))
    target, view = target_and_view(folder.absolute().parent.name)
    work = source_folder(folder, "images").parents[1]
    encoder = EncoderMaker(recipe, work, device_for("auto"), manifest.details["dtype"]).make(target)
    source = open_source(source_folder(folder, encoder.source))
    crop = Crop(recipe.seed, view) if view and encoder.source == "images" else None
    Assembly(folder, feature_plan(encoder, source.manifest, crop)).require_same(manifest)
    make = BatchMaker(source, [] if encoder.preprocess is None else [encoder.preprocess], crop)
    attempts = Attempts()
    for number, entry in enumerate(source.manifest.shards):
        if entry.name not in shards:
            continue
        with open_feature_shard(scratch / entry.name, manifest.details) as shard:
            for block in shard_blocks(source.shard_rows(number), made_by.batch_size):
                batch = make(block)
                ((values, faults),) = attempts([encoder], batch)
                shard.add(batch, values, faults)
        yield shard.record()
