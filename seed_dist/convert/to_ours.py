"""A published file -> a folder: a Q-Former that stage 1 can start from, a complete tokenizer, or the frozen ViT."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from seed_dist.config import BackboneConfig, QFormerConfig
from seed_dist.convert.carried import CARRIED_NAME, MATCHING, save_carried
from seed_dist.convert.checkpoint_file import Checkpoint, read_checkpoint
from seed_dist.convert.sizes import Told, codebook_config, has_text_path, qformer_config
from seed_dist.convert.vision_transformer import convert_vision_transformer, is_vision_transformer
from seed_dist.errors import ConfigError, DataError, MismatchError
from seed_dist.fsio import atomic_folder, sha256_file
from seed_dist.models.interop import load_published
from seed_dist.models.model_files import exported_state, listed
from seed_dist.models.pretrained import SeedTokenizer
from seed_dist.models.qformer import CausalQFormer
from seed_dist.models.tokenizer import SeedQuantizer

_QUANTIZER = (  # beginnings of names that stage 2 trains
    "quantize.", "encode_task_layer.", "decode_task_layer.", "blocks.", "blocks_image.", "pos_embed",
    "Reverse_Qformer.", "reverse_tokens", "image_down.", "distill_image_proj.",
)  # fmt: skip
_QFORMER = ("Qformer.", "query_tokens", "ln_vision.")


@dataclass(frozen=True)
class ToOurs:
    """What to convert. `qformer` is the stage-1 checkpoint that completes a stage-2 one."""

    source: Path
    out: Path
    told: Told = dataclasses.field(default_factory=Told)
    backbones: BackboneConfig = dataclasses.field(default_factory=BackboneConfig)
    qformer: Path | None = None


@dataclass(frozen=True, eq=False)
class _Built:
    kind: str
    model: CausalQFormer | SeedTokenizer
    carried: dict[str, Tensor]


def convert_to_ours(request: ToOurs) -> list[str]:
    """Write the exported folder `out`; the value is a summary, line by line.

    Every tensor is taken over, carried along for the way back, or named in the summary as left out. Raises ConfigError,
    DataError or MismatchError before anything is written.
    """
    check_free(request.out)
    files = [read_checkpoint(path) for path in (request.source, request.qformer) if path is not None]
    if is_vision_transformer(files[0].weights):
        return _vision_transformer(request, files)
    weights = _joined(files)
    built = _tokenizer(request, weights) if _holds(files[0], _QUANTIZER) else _qformer(request, weights)
    origins = {"files": [[file.path.name, sha256_file(file.path)] for file in files], "kind": built.kind}
    with atomic_folder(request.out) as partial:
        if isinstance(built.model, SeedTokenizer):
            built.model.provenance = {"converted_from": origins}
            built.model.save_pretrained(partial)
        else:
            built.model.save_pretrained(partial, request.backbones, {"converted_from": origins})
        save_carried(partial, built.carried)
    return [*_found(built, files), *_sizes(built.model, request), *_written(built, request.out)]


def _vision_transformer(request: ToOurs, files: list[Checkpoint]) -> list[str]:
    told = request.told
    given = {"--head": told.head, "--decoder-heads": told.decoder_heads, "--qformer": request.qformer}
    if problems := [f"{option} is of no use for a ViT; leave it away" for option, value in given.items() if value]:
        raise ConfigError(problems)
    return convert_vision_transformer(files[0], request.out, told.heads)


def check_free(out: Path) -> None:
    """Nothing that is already there is ever overwritten."""
    if out.exists() or out.is_symlink():
        raise DataError(f"{out} is there already, and nothing is overwritten. Give another name, or move it away.")


def _joined(files: list[Checkpoint]) -> dict[str, Tensor]:
    """The tensors of all files; a name that two of them have could mean either."""
    weights = dict(files[0].weights)
    if not _holds(files[0], (*_QUANTIZER, *_QFORMER)):
        raise DataError(
            f"{files[0].path} holds nothing under the names of a published tokenizer or Q-Former (quantize.*, "
            f"Qformer.bert.*, query_tokens): {'; '.join(listed('tensors', sorted(weights))) or 'no tensors'}. Give a "
            "checkpoint of SEED or BLIP-2."
        )
    for other in files[1:]:
        if not _holds(files[0], _QUANTIZER):
            raise ConfigError([f"--qformer completes a tokenizer of stage 2, but {files[0].path} is a Q-Former itself"])
        doubled = sorted(weights.keys() & other.weights.keys())
        if doubled or _holds(other, _QUANTIZER):
            raise MismatchError(
                f"the Q-Former for {files[0].path}",
                f"{other.path} with {'; '.join(listed('in both files', doubled)) or 'a codebook of its own'}",
                "a checkpoint of stage 1, of which the other file holds nothing",
                "Leave --qformer away where the file is complete.",
            )
        weights.update(other.weights)
    return weights


def _holds(checkpoint: Checkpoint, beginnings: tuple[str, ...]) -> bool:
    return any(name.startswith(beginnings) for name in checkpoint.weights)


def _qformer(request: ToOurs, weights: Mapping[str, Tensor]) -> _Built:
    told = request.told
    given = [option for option, value in (("--head", told.head), ("--decoder-heads", told.decoder_heads)) if value]
    if given:
        raise ConfigError([f"{given[0]} belongs to a tokenizer, but {request.source} is a Q-Former; leave it away"])
    matching = {name: tensor for name, tensor in weights.items() if name.startswith(MATCHING)}
    config = qformer_config(weights, told, causal=not matching)
    model = CausalQFormer(config, text_path=has_text_path(weights))
    rest = {name: tensor for name, tensor in weights.items() if name not in matching}
    carried = load_published(model, rest, str(request.source))
    kind = "BLIP-2 Q-Former of stage 1, bidirectional" if matching else "causal Q-Former of stage 1"
    return _Built(kind, model, {**carried, **_checked_matching(matching, config, request.source)})


def _checked_matching(matching: Mapping[str, Tensor], config: QFormerConfig, source: Path) -> dict[str, Tensor]:
    """The matching head is not loaded into any module, so its names and shapes are looked at here."""
    found = {name: tuple(tensor.shape) for name, tensor in matching.items()}
    expected = {f"{MATCHING}weight": (2, config.width), f"{MATCHING}bias": (2,)}
    if found and found != expected:
        raise MismatchError(f"BLIP-2's matching head in {source}", found, expected, "Check where the file comes from.")
    return dict(matching)


def _tokenizer(request: ToOurs, weights: Mapping[str, Tensor]) -> _Built:
    if not any(name.startswith(_QFORMER) for name in weights):
        raise DataError(
            f"{request.source} holds what stage 2 trained, without the Q-Former that was frozen in it. Give the "
            "checkpoint of stage 1 that it was trained on: --qformer FILE."
        )
    if any(name.startswith(MATCHING) for name in weights):
        raise MismatchError(
            "the Q-Former of this tokenizer",
            "BLIP-2's (it has an itm_head), which is not causal",
            "the causal one of stage 1",
            "Give with --qformer the checkpoint of stage 1 that stage 2 was trained on.",
        )
    layout = qformer_config(weights, request.told, causal=True)
    codebook = codebook_config(weights, request.told, layout)
    qformer = CausalQFormer(layout, text_path=has_text_path(weights))
    model = SeedTokenizer(qformer, SeedQuantizer.for_qformer(codebook, layout), request.backbones)
    origin = " and ".join(str(path) for path in (request.source, request.qformer) if path is not None)
    return _Built(f"tokenizer with head {codebook.head}", model, load_published(model, weights, origin))


def _found(built: _Built, files: list[Checkpoint]) -> list[str]:
    lines = [f"found     {built.kind}"]
    for file in files:
        types = " and ".join(sorted({str(t.dtype).removeprefix("torch.") for t in file.weights.values()}))
        besides = f"; not needed: {', '.join(file.besides)}" if file.besides else ""
        lines.append(f"read      {file.path}: {len(file.weights)} tensors of {types}{besides}")
        lines += [f"left out  {count} x {reason}" for reason, count in file.left_out.items()]
    if built.carried:
        kinds = sorted({name.rpartition(".")[0].split(".predictions")[0] for name in built.carried})
        lines.append(f"kept      {len(built.carried)} x {', '.join(kinds)}: not used, for the way back, {CARRIED_NAME}")
    return lines


def _sizes(model: CausalQFormer | SeedTokenizer, request: ToOurs) -> list[str]:
    """The sizes by the names of a recipe's options, those that no tensor shows on a line of their own."""
    qformer = model.qformer if isinstance(model, SeedTokenizer) else model
    names = ["queries", "width", "layers", "mlp_width", "cross_every", "vision_width"]
    if qformer.has_text_path:
        names += ["projection_width", "text_positions", "vocabulary_size"]
    lines = ["sizes     qformer: " + ", ".join(f"{name} {getattr(qformer.config, name)}" for name in names)]
    unseen = [("qformer.heads", qformer.config.heads, "--heads", request.told.heads)]
    if isinstance(model, SeedTokenizer):
        config = model.quantizer.config
        names = ["size", "width", "decoder_layers", "head", "generation_width"]
        names += ["head_queries", "head_layers"] if config.head == "reverse_qformer" else []
        lines.append("          codebook: " + ", ".join(f"{name} {getattr(config, name)}" for name in names))
        told = request.told.decoder_heads or request.told.heads
        unseen.append(("codebook.decoder_heads", config.decoder_heads, "--decoder-heads", told))
    for name, value, option, told in unseen:
        lines.append(
            f"          {name} {value}: " + ("as told" if told else f"assumed, no tensor shows it; {option} N")
        )
    return lines


def _written(built: _Built, out: Path) -> list[str]:
    state = exported_state(built.model)
    total = sum(tensor.numel() for tensor in state.values())
    lines = [f"wrote     {out}: {len(state)} tensors, {total:,} numbers in float32"]
    if isinstance(built.model, SeedTokenizer):
        encoder = built.model.backbones.image_encoder
        width = built.model.qformer.config.vision_width
        lines.append(
            f"encoder   {encoder}; it must give patch features of width {width} (--backbone image_encoder=...)"
        )
        lines.append(f"use       python -m seed_dist.tokenize IMAGES --tokenizer {out}")
    else:
        lines.append(f"use       python -m seed_dist.train ... --set backbones.qformer={out}")
    return lines
