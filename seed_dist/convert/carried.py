"""Published tensors that no module here has, kept beside the weights so that writing back gives the same file.

They are the captioning head of a stage-1 checkpoint and the matching head of BLIP-2. The captioning head's output
matrix is the word embedding (`load_published` checks it) and is not stored a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from seed_dist.errors import DataError
from seed_dist.fsio import atomic_file

CARRIED_NAME = "carried.safetensors"
MATCHING = "itm_head."  # BLIP-2's matching head: SEED trains without it
_OUTPUT, _WORDS = "Qformer.cls.predictions.decoder.weight", "Qformer.bert.embeddings.word_embeddings.weight"
_TIED = "output_matrix"


def save_carried(folder: Path, carried: Mapping[str, Tensor]) -> None:
    """Write what is carried into an exported folder; nothing for nothing."""
    if not carried:
        return
    # A copy of each: the two biases of the captioning head are one tensor in the published class.
    stored = {name: tensor.contiguous().clone() for name, tensor in carried.items() if name != _OUTPUT}
    metadata = {"format": "pt", _TIED: "word embeddings" if _OUTPUT in carried else "none"}
    with atomic_file(folder / CARRIED_NAME) as file:
        file.write(save(stored, metadata=metadata))


def load_carried(folder: Path, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an exported folder carries for writing back; `published` gives the word embedding."""
    path = folder / CARRIED_NAME
    if not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            carried = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            is_tied = (file.metadata() or {}).get(_TIED) == "word embeddings"
    except SafetensorError as error:
        raise DataError(
            f"{path} cannot be read ({error}). Convert the published file again, or delete {CARRIED_NAME} to do "
            "without the published heads that have no part in SEED."
        ) from error
    if is_tied and _WORDS in published:
        carried[_OUTPUT] = published[_WORDS]
    return carried
