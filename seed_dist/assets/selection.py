"""Which files of a model repository are wanted: configuration, tokenizer, and one set of weights per folder.

Repositories hold the same weights several times: as safetensors and as pickles, for other frameworks, in half
precision, in one file and in shards. One set is enough, and the one that the loaders here read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

_TEXTS = (".json", ".txt", ".model", ".jinja", ".md")
_NAMED = re.compile(r"(LICEN[CS]E|NOTICE)", re.IGNORECASE)
# In this order; open_clip's only where its own configuration says how to build the model.
_OPEN_CLIP = ("open_clip_model", "open_clip_pytorch_model")
_STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")
_SUFFIXES = (".safetensors", ".bin")  # pickles only where there is nothing better; they are read as data alone
_UNUSED = "safety_checker"  # component of Stable Diffusion that judges pictures; 1.2 GB that nothing here reads


def wanted_files(names: Sequence[str]) -> list[str]:
    """Those of a repository's file names that are fetched, sorted.

    A diffusers pipeline (`model_index.json`) is its components; single-file checkpoints beside them are left.
    """
    paths = [PurePosixPath(name) for name in names]
    is_pipeline = "model_index.json" in names
    kept: list[PurePosixPath] = []
    for folder in sorted({path.parent for path in paths}):
        inside = [path.name for path in paths if path.parent == folder]
        if any(part.startswith(".") or part == _UNUSED for part in folder.parts):
            continue
        weights = [] if is_pipeline and folder == PurePosixPath() else _weights(inside)
        texts = [name for name in inside if _is_text(name) and not _is_index(name)]
        kept += [folder / name for name in (*texts, *weights)]
    return sorted(map(str, kept))


def has_weights(names: Iterable[str]) -> bool:
    return any(name.endswith(_SUFFIXES) for name in names)


def _weights(inside: Sequence[str]) -> list[str]:
    """The files of the first complete set: one file, or shards with their index."""
    stems = (*_OPEN_CLIP, *_STEMS) if "open_clip_config.json" in inside else _STEMS
    for suffix in _SUFFIXES:
        for stem in stems:
            if f"{stem}{suffix}" in inside:
                return [f"{stem}{suffix}"]
            shards = [name for name in inside if re.fullmatch(rf"{stem}-\d+-of-\d+{re.escape(suffix)}", name)]
            if shards and f"{stem}{suffix}.index.json" in inside:
                return [*shards, f"{stem}{suffix}.index.json"]
    return []


def _is_text(name: str) -> bool:
    return not name.startswith(".") and (name.endswith(_TEXTS) or _NAMED.match(name) is not None)


def _is_index(name: str) -> bool:
    """An index of shards, which comes with them or not at all."""
    return name.endswith(".index.json") and name != "model_index.json"
