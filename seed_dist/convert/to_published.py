"""An exported folder -> a file under published names, for the published code and everything built on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seed_dist.convert.carried import load_carried
from seed_dist.convert.checkpoint_file import TORCH_SUFFIXES, write_checkpoint
from seed_dist.convert.to_ours import check_free
from seed_dist.errors import ConfigError, MismatchError
from seed_dist.models.interop import to_published
from seed_dist.models.model_files import exported_state, read_model_type
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer

WRITTEN_SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")
_KINDS: dict[str, type[CausalQFormer] | type[SeedTokenizer]] = {
    "seed_causal_qformer": CausalQFormer,
    "seed_tokenizer": SeedTokenizer,
}


@dataclass(frozen=True)
class ToPublished:
    """An exported folder and the file to write."""

    source: Path
    out: Path


def convert_to_published(request: ToPublished) -> list[str]:
    """Write the file; the value is a summary, line by line.

    A tokenizer's .pt holds the tensors themselves, like `seed_quantizer.pt`; a Q-Former's holds them as `model`, like
    the checkpoints that the published training starts from.
    """
    out = request.out
    if out.suffix not in WRITTEN_SUFFIXES:
        raise ConfigError([f"OUT is {out}, but {request.source} becomes a file: {', '.join(WRITTEN_SUFFIXES)}"])
    check_free(out)
    kind = read_model_type(request.source)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise MismatchError(
            f"model_type of {request.source}",
            kind,
            sorted(_KINDS),
            "Give the export/ of stage causal_qformer or codebook.",
        )
    model = _KINDS[kind].from_pretrained(request.source)
    published = to_published(exported_state(model))
    carried = load_carried(request.source, published)
    write_checkpoint(out, {**published, **carried}, "model" if isinstance(model, CausalQFormer) else None)
    return _summary(request, model, len(published), len(carried))


def _summary(request: ToPublished, model: CausalQFormer | SeedTokenizer, tensors: int, carried: int) -> list[str]:
    qformer = model if isinstance(model, CausalQFormer) else model.qformer
    told = f"--heads {qformer.config.heads}"
    if isinstance(model, SeedTokenizer):
        found = f"tokenizer with head {model.quantizer.config.head}"
        told += f" --decoder-heads {model.quantizer.config.decoder_heads}"
    else:
        found = f"{'causal' if qformer.config.causal else 'bidirectional'} Q-Former"
    text = "with" if qformer.has_text_path else "without"
    more = f" and {carried} carried along" if carried else ""
    return [
        f"found     {found}, {text} text path, in {request.source}",
        f"wrote     {request.out}: {tensors} tensors under published names{more}, float32",
        f"note      no tensor shows the number of heads; to read the file back: {told}",
    ]
