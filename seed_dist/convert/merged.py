"""Stage 3's adapter -> a plain transformers folder, complete or not there."""

from __future__ import annotations

from pathlib import Path

from seed_dist.convert.to_ours import check_free
from seed_dist.dist.ds_config import Precision
from seed_dist.dist.precision import dtype_of
from seed_dist.fsio import atomic_folder
from seed_dist.models.merged_language import save_merged


def convert_to_merged(source: Path, out: Path, base: str | None, precision: Precision) -> list[str]:
    """Write the exported adapter `source` and its base, merged, as the folder `out`; the value is a summary."""
    check_free(out)
    with atomic_folder(out) as partial:
        lines = save_merged(source, partial, base, dtype_of(precision))
    return [line.replace(str(partial), str(out)) for line in lines]
