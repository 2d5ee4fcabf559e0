"""The frozen EVA-CLIP ViT-g/14 of BLIP-2: patch features before any final norm, 257 x 1408 at its published size.

Two layouts load and give the same features: a whole BLIP-2 of Hugging Face (`Salesforce/blip2-*`, names
`vision_model.*`), and what `python -m seed_dist.convert eva_vit_g.pth FOLDER` makes of LAVIS's file. Both are built as
transformers' Blip2VisionModel, without what BLIP-2 does not feed to its Q-Former:

- its `post_layernorm` is not applied: BLIP-2 normalises by `ln_vision`, which is trained with the Q-Former. (In a whole
  BLIP-2 that norm *is* `ln_vision` under another name.)
- the last of EVA's 40 blocks is in neither layout: BLIP-2 takes the output of the last but one.
- LayerNorm's epsilon is 1e-6 whatever the configuration says: early conversions wrote 1e-5, and only 1e-6 gives LAVIS's
  numbers (salesforce/LAVIS issue 418; `create_eva_vit_g` in its lavis/models/eva_vit.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import Blip2VisionConfig, Blip2VisionModel

from seed_dist.errors import DataError, MismatchError
from seed_dist.models.image_processor import SeedImageProcessor
from seed_dist.models.model_files import CONFIG_NAME, WEIGHTS_NAME, listed
from seed_dist.models.preprocessing import transformers_processor

MODEL_TYPE = "blip_2_vision_model"
WHOLE_MODEL_TYPE = "blip-2"
LAYER_NORM_EPS = 1e-6
_WHOLE = "vision_model."
_NOT_APPLIED = "post_layernorm."


class EvaVision:
    """Sees pictures; has no image embedding.

    `matmul` is the type of the linear and convolution weights and of their products: fp32 on the CPU, fp16 on a GPU, as
    LAVIS stores and runs them (`convert_weights_to_fp16`, autocast). Norms and the residual stream are always fp32.
    """

    kind = "vision model of BLIP-2"

    def __init__(self, folder: Path, device: torch.device, matmul: torch.dtype | None = None) -> None:
        config = Blip2VisionConfig.from_pretrained(folder)  # of a whole BLIP-2: its vision_config
        config.layer_norm_eps = LAYER_NORM_EPS
        self._device = device
        self._matmul = matmul or (torch.float16 if device.type == "cuda" else torch.float32)
        with torch.device("meta"):
            model = cast(Any, Blip2VisionModel)._from_config(config, attn_implementation="sdpa")
        model.post_layernorm = nn.Identity()
        _load(model, folder, device, self._matmul)
        self._model: Any = model.eval().requires_grad_(False)
        self.processor = self.read_processor(folder)

    @staticmethod
    def read_processor(folder: Path) -> SeedImageProcessor:
        """Without reading weights."""
        config: Any = Blip2VisionConfig.from_pretrained(folder)
        return transformers_processor(folder, int(config.image_size))

    def patches_and_embedding(self, images: Tensor) -> tuple[Tensor, None]:
        enabled = self._matmul != torch.float32
        with torch.autocast(self._device.type, self._matmul, enabled=enabled):
            hidden = self._embedded(images.to(self._device))
            out = self._model.encoder(inputs_embeds=hidden).last_hidden_state
        return cast(Tensor, out.float()), None

    def _embedded(self, images: Tensor) -> Tensor:
        """Class token and patches with their positions, in fp32 as in LAVIS; transformers would round them to fp16."""
        parts = self._model.embeddings
        patches = parts.patch_embedding(images.to(parts.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        tokens = torch.cat([parts.class_embedding.expand(len(images), -1, -1), patches.float()], dim=1)
        return cast(Tensor, tokens + parts.position_embedding)


def _load(model: nn.Module, folder: Path, device: torch.device, matmul: torch.dtype) -> None:
    """Fill a model on the meta device tensor by tensor, each in its final type and place; every name is accounted for.

    MismatchError lists names that are missing or unknown and shapes that differ.
    """
    files = _weight_files(folder)
    start = _WHOLE if any(name.startswith(_WHOLE) for name in files) else ""
    found = {name.removeprefix(start): name for name in files if name.startswith(start)}
    found = {name: full for name, full in found.items() if not name.startswith(_NOT_APPLIED)}
    expected = dict(model.state_dict())
    problems = [
        *listed("missing", sorted(expected.keys() - found.keys())),
        *listed("unknown", sorted(found.keys() - expected.keys())),
    ]
    half = {f"{name}.{kind}" for name, part in model.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)
            for kind in ("weight", "bias")}  # fmt: skip
    state: dict[str, Tensor] = {}
    for path in sorted(set(files.values())):
        with safe_open(path, framework="pt") as file:
            for name in expected.keys() & found.keys():
                if files[found[name]] != path:
                    continue
                tensor = file.get_tensor(found[name])
                if tensor.shape != expected[name].shape:
                    problems.append(f"{name} is {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}")
                state[name] = tensor.to(device, matmul if name in half else torch.float32)
    if problems:
        raise MismatchError(
            f"the set of vision weights in {folder}",
            "; ".join(problems),
            f"the {len(expected)} tensors that its {CONFIG_NAME} describes",
            "Use the weights and the configuration of one and the same model.",
        )
    model.load_state_dict(state, assign=True)


def _weight_files(folder: Path) -> dict[str, Path]:
    """Every tensor's name and the file it is in: one file, or shards with their index."""
    index, single = folder / f"{WEIGHTS_NAME}.index.json", folder / WEIGHTS_NAME
    if single.is_file():
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    if index.is_file():
        return {name: folder / shard for name, shard in json.loads(index.read_text())["weight_map"].items()}
    raise DataError(
        f"{folder} holds neither {WEIGHTS_NAME} nor {index.name}. Give a BLIP-2 with safetensors, or convert LAVIS's "
        "file: python -m seed_dist.convert eva_vit_g.pth FOLDER"
    )
