"""Sizes of the frozen models that a recipe names: from the `config.json` of their folder where it is here, otherwise
from `backbones.json`, which knows the published ones. No weights are read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_dist.assets import resolve
from seed_dist.errors import ConfigError, SeedDistError

_KNOWN = Path(__file__).with_name("backbones.json")
_PIXELS = 3  # colours of a pixel


@dataclass(frozen=True)
class Tower:
    """A transformer over `tokens` vectors; `patch_inputs` numbers become one of them (0: words), `embedding` is the
    width of what comes out (0: the tokens themselves). `layers` 0: no transformer, its operations are not known.
    """

    tokens: int
    width: int
    layers: int
    mlp_width: int
    patch_inputs: int
    embedding: int


@dataclass(frozen=True)
class LanguageModel:
    """A decoder of OPT's or LLaMA's kind; `linears` are the layer's projections, name -> (inputs, outputs)."""

    kind: str
    vocabulary: int
    width: int
    layers: int
    mlp_width: int
    heads: int
    key_value_width: int
    positions: int
    tied: bool

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        wide, up, down = (self.width, self.width), (self.width, self.mlp_width), (self.mlp_width, self.width)
        narrow = (self.width, self.key_value_width)
        if self.kind == "opt":
            return {"q_proj": wide, "k_proj": wide, "v_proj": wide, "out_proj": wide, "fc1": up, "fc2": down}
        attention = {"q_proj": wide, "k_proj": narrow, "v_proj": narrow, "o_proj": wide}
        return {**attention, "gate_proj": up, "up_proj": up, "down_proj": down}


def tower(reference: str, option: str) -> Tower:
    """The encoder `reference`; `option` is the one of the recipe's `backbones`. ConfigError where nothing knows it."""
    config = _config(reference)
    vision = config.get("vision_config", config)
    if config.get("model_type") in ("blip-2", "blip_2_vision_model") and "image_size" in vision:
        patches = (vision["image_size"] // vision["patch_size"]) ** 2
        inputs = _PIXELS * vision["patch_size"] ** 2
        sizes = vision["hidden_size"], vision["num_hidden_layers"], vision["intermediate_size"]
        return Tower(patches + 1, *sizes, inputs, 0)
    known = _known(reference)
    if known is None or "tokens" not in known:
        raise ConfigError([f"the sizes of backbones.{option} {reference!r} are not known; {_advice(option)}"])
    return Tower(**known)


def language_model(reference: str) -> LanguageModel:
    """The language model `reference`; ConfigError where nothing knows it or it is neither OPT's nor LLaMA's kind."""
    config = _config(reference) or _known(reference)
    if not config:
        problem = f"the sizes of backbones.language_model {reference!r} are not known; {_advice('language_model')}"
        raise ConfigError([problem])
    kind, heads = config.get("model_type"), config.get("num_attention_heads", 1)
    if kind not in ("opt", "llama"):
        raise ConfigError([f"backbones.language_model {reference!r} is a {kind}; the plan knows opt and llama"])
    width = int(config["hidden_size"])
    return LanguageModel(
        kind=kind,
        vocabulary=config["vocab_size"],
        width=width,
        layers=config["num_hidden_layers"],
        mlp_width=config["ffn_dim" if kind == "opt" else "intermediate_size"],
        heads=heads,
        key_value_width=width // heads * (config.get("num_key_value_heads") or heads),
        positions=config.get("max_position_embeddings", 2048),
        tied=config.get("tie_word_embeddings", kind == "opt"),
    )


def _config(reference: str) -> dict[str, Any]:
    """The configuration beside the weights; empty where they are not on this machine or have none."""
    try:
        path = resolve(reference) / "config.json"
        return json.loads(path.read_text()) if path.is_file() else {}
    except (SeedDistError, ValueError):
        return {}


def _known(reference: str) -> dict[str, Any] | None:
    known: dict[str, dict[str, Any]] = json.loads(_KNOWN.read_text())
    return known.get(reference.partition("@")[0])


def _advice(option: str) -> str:
    return f"put its folder with config.json on this machine, or name it with --set backbones.{option}=PATH"
