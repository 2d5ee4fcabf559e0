"""An exported folder -> a file under published names, for the published code and everything built on it."""

from __future__ import annotations

from pathlib import Path

from seed_dist.convert.carried import load_carried
from seed_dist.convert.checkpoint_file import SUFFIXES, write_checkpoint
from seed_dist.convert.to_ours import check_free
from seed_dist.errors import ConfigError, MismatchError
from seed_dist.models.interop import to_published
from seed_dist.models.model_files import exported_state, read_model_type
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer

_KINDS: dict[object, type[CausalQFormer] | type[SeedTokenizer]] = {
    "seed_causal_qformer": CausalQFormer,
    "seed_tokenizer": SeedTokenizer,
}


def convert_to_published(source: Path, out: Path) -> list[str]:
    """Write the exported folder `source` as the file `out`; the value is a summary, line by line.

    A tokenizer's .pt holds the tensors themselves, like `seed_quantizer.pt`; a Q-Former's holds them as `model`, like
    the checkpoints that the published training starts from.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError([f"OUT is {out}, but {source} becomes a file: {', '.join(SUFFIXES)}"])
    check_free(out)
    kind = read_model_type(source)
    if not isinstance(kind, str) or kind not in _KINDS:
        action = "Give the export/ of stage causal_qformer or codebook."
        raise MismatchError(f"model_type of {source}", kind, sorted(map(str, _KINDS)), action)
    model = _KINDS[kind].from_pretrained(source)
    _check_extensions(model, source)
    published = to_published(exported_state(model))
    carried = load_carried(source, published)
    write_checkpoint(out, {**published, **carried}, "model" if isinstance(model, CausalQFormer) else None)
    more = f" and {len(carried)} carried along" if carried else ""
    return [
        *_described(model, source),
        f"wrote     {out}: {len(published)} tensors under published names{more}, float32",
    ]


def _check_extensions(model: CausalQFormer | SeedTokenizer, source: Path) -> None:
    if isinstance(model, SeedTokenizer) and model.quantizer.absent is not None:
        raise MismatchError(
            f"codebook.prefix_masking of {source}",
            model.quantizer.config.prefix_masking,
            0.0,
            "The published tokenizer has no place for the vector that stands for absent codes; train without it.",
        )


def _described(model: CausalQFormer | SeedTokenizer, source: Path) -> list[str]:
    """What was found, and what has to be told when the file is read back."""
    qformer = model if isinstance(model, CausalQFormer) else model.qformer
    told = f"--heads {qformer.config.heads}"
    if isinstance(model, SeedTokenizer):
        found = f"tokenizer with head {model.quantizer.config.head}"
        told += f" --decoder-heads {model.quantizer.config.decoder_heads}"
    else:
        found = f"{'causal' if qformer.config.causal else 'bidirectional'} Q-Former"
    text = "with" if qformer.has_text_path else "without"
    return [
        f"found     {found}, {text} text path, in {source}",
        f"note      no tensor shows the number of heads; to read the file back: {told}",
    ]
