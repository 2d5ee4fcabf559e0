"""An off-the-shelf language model that reads and writes image codes: frozen base, LoRA, and new tokens for images.

Ids below the base vocabulary are words (it may be larger than the tokenizer, as OPT's is); the image tokens are behind
it. Only they and the adapters are trained, so the base stays what it was, embeddings included.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seed_dist.assets import resolve
from seed_dist.config import LoraConfig
from seed_dist.errors import ConfigError, DataError, MismatchError
from seed_dist.fsio import write_json
from seed_dist.models.code_order import Order
from seed_dist.models.documents import IGNORE, Document, batch_of, packed, separate_attention
from seed_dist.models.image_language import ImageLanguage
from seed_dist.models.image_tokens import ImageTokens
from seed_dist.models.model_files import load_strictly
from seed_dist.models.transformers_folder import read_causal_model

DESCRIPTION, TOKENS = "seed_language_model.json", "rows.safetensors"
_DESCRIBED = ("base", "codes", "first_code")
_COPY = "Copy the export/ of stage lora again, all of it."
_VARIANTS = ("image_embedding", "code_order")  # options of `lora` that an adapter is of no use without


class SeedLanguageModel(ImageLanguage):
    """A causal language model (OPT or LLaMA family) over words and `codes` image codes.

    `reference` names a transformers folder; it is read in `dtype`. `codebook` float [codes, c] is needed where
    `lora.image_embedding` is `codebook`. Raises ConfigError for a base that does not fit its tokenizer or `lora`.
    """

    def __init__(
        self,
        reference: str,
        codes: int,
        lora: LoraConfig,
        codebook: Tensor | None = None,
        adapter: Path | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        folder = resolve(reference, "language_model")
        self.reference, self.codes, self.lora, self.code_order = reference, codes, lora, lora.code_order
        self.tokenizer, base = read_causal_model(folder, dtype)
        _check_base(reference, base, self.tokenizer, lora)
        self.word_count, self.first_code = len(self.tokenizer), int(base.config.vocab_size)
        self.positions = getattr(base.config, "max_position_embeddings", None)
        wants_codebook = lora.image_embedding == "codebook"
        assert codebook is not None or not wants_codebook, "this variant reads the codebook's vectors"
        words, tied = base.get_input_embeddings().weight, bool(base.config.tie_word_embeddings)
        self.image_tokens = ImageTokens(codes, words, tied, codebook if wants_codebook else None)
        if adapter is None:
            self.model = cast(Any, get_peft_model(base, _peft_config(lora)))
        else:
            self.model = _with_adapter(base, adapter)
        if lora.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})

    @property
    def device(self) -> torch.device:
        return self.image_tokens.score_table().device

    def embed(self, ids: Tensor) -> Tensor:
        words = self._base().get_input_embeddings()
        is_new = ids >= self.first_code
        old = words(ids.masked_fill(is_new, 0))
        new = F.embedding((ids - self.first_code).clamp_min(0), self.image_tokens.read_table())
        return torch.where(is_new.unsqueeze(-1), new, old)

    def hidden(self, embeddings: Tensor, **context: Any) -> Any:
        return self._base().base_model(inputs_embeds=embeddings, **context)  # LoRA is inside its linear layers

    def logits(self, hidden: Tensor) -> Tensor:
        words = self._base().get_output_embeddings()(hidden)
        return torch.cat([words, hidden @ self.image_tokens.score_table().T], dim=-1)

    def forward(self, ids: Tensor, documents: Tensor, labels: Tensor) -> Tensor:
        """Mean next-token cross-entropy over the scored positions of a batch that `sequences` made, in fp32."""
        context = separate_attention(documents) if self.lora.packing else {"attention_mask": documents}
        hidden = self.hidden(self.embed(ids), use_cache=False, **context).last_hidden_state
        scored = labels[:, 1:] != IGNORE
        return F.cross_entropy(self.logits(hidden[:, :-1][scored]).float(), labels[:, 1:][scored])

    def sequences(self, captions: Sequence[str], codes: Tensor, caption_first: Tensor) -> dict[str, Tensor]:
        """Training documents: `<s> image caption </s>` scored on the caption, `<s> caption image </s>` on the image.

        `codes` int [B, Q]; `caption_first` bool [B]. The value is a batch as `batch_of` describes it: one document per
        row, or as many as fit into `lora.max_tokens` with `lora.packing`. Raises DataError when a document is longer
        than `lora.max_tokens`: an image is never cut.
        """
        documents = []
        for caption, image_codes, flip in zip(captions, codes.tolist(), caption_first.tolist(), strict=True):
            words, image = self.words(caption), self.image(image_codes)
            first, second = (words, image) if flip else (image, words)
            ids = [self.start_token, *first, *second, self.tokenizer.eos_token_id]
            documents.append(Document(ids, 1 + len(first)))
        longest = max(len(document.ids) for document in documents)
        if longest > self.lora.max_tokens:
            raise DataError(
                f"an image with its caption takes {longest} tokens, but lora.max_tokens is {self.lora.max_tokens}. "
                "Raise lora.max_tokens or shorten the captions."
            )
        rows = packed(documents, self.lora.max_tokens) if self.lora.packing else [[document] for document in documents]
        return batch_of(rows, self.tokenizer.pad_token_id or 0)

    def save_pretrained(self, folder: Path, provenance: dict[str, Any]) -> None:
        """The adapter in peft's format, the new tokens and what they belong to; never the base."""
        self.model.save_pretrained(folder)
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.image_tokens.state_dict().items()}
        save_file(tensors, folder / TOKENS)
        described = {"base": self.reference, "codes": self.codes, "first_code": self.first_code}
        variant = {name: getattr(self.lora, name) for name in _VARIANTS}
        write_json(folder / DESCRIPTION, {**described, **variant, **provenance})

    @classmethod
    def from_pretrained(
        cls, folder: Path, reference: str, codes: int, lora: LoraConfig, dtype: torch.dtype = torch.float32
    ) -> SeedLanguageModel:
        """An exported adapter on its base, in eval mode, all parameters in `dtype`. MismatchError when the recipe's
        options are not those that it was trained with."""
        # Exports from before it was written down: they had rows, and the recipe knows the order.
        written = {"image_embedding": "rows", "code_order": lora.code_order, **description(folder)}
        for option in _VARIANTS:
            if written[option] != getattr(lora, option):
                action = "Use the recipe that the adapter was trained with."
                raise MismatchError(f"lora.{option} of {folder}", written[option], getattr(lora, option), action)
        try:
            tensors = load_file(folder / TOKENS)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{folder / TOKENS} cannot be read ({error}). {_COPY}") from error
        model = cls(reference, codes, lora, tensors.get("codebook"), folder, dtype)
        load_strictly(model.image_tokens, tensors, str(folder / TOKENS))
        for parameter in model.parameters():  # not buffers: rotary frequencies stay in fp32
            parameter.data = parameter.data.to(dtype)
        return model.eval()

    @classmethod
    def from_export(
        cls,
        folder: Path,
        base: str | None = None,
        dtype: torch.dtype = torch.float32,
        code_order: Order = "causal",
    ) -> SeedLanguageModel:
        """An exported adapter as it describes itself, without a recipe. `base`: where the frozen model is, if no longer
        where it was in training; `code_order`: where the export is so old that it does not say. Raises DataError where
        the base is another model."""
        described = {"code_order": code_order, **description(folder)}
        lora = LoraConfig(target_modules=(), **{name: described[name] for name in _VARIANTS if name in described})
        model = cls.from_pretrained(folder, base or described["base"], described["codes"], lora, dtype)
        if model.first_code != described["first_code"]:
            raise DataError(
                f"{model.reference} has {model.first_code} words, but {folder} was trained on a model of "
                f"{described['first_code']}. Name that model with --backbone language_model=FOLDER."
            )
        return model

    def _base(self) -> Any:
        return self.model.get_base_model()


def description(folder: Path) -> dict[str, Any]:
    """What `save_pretrained` said of an exported adapter."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise DataError(f"{folder} holds no {DESCRIPTION}. Give the export/ of stage lora.")
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). {_COPY}") from error
    if not isinstance(values, dict) or (missing := [name for name in _DESCRIBED if name not in values]):
        what = "holds no object" if not isinstance(values, dict) else f"does not say {', '.join(missing)}"
        raise DataError(f"{path} {what}. {_COPY}")
    return values


def _with_adapter(base: Any, adapter: Path) -> Any:
    try:
        return PeftModel.from_pretrained(base, adapter, is_trainable=True)
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise DataError(
            f"the adapter in {adapter} cannot be read ({type(error).__name__}: {error}). {_COPY}"
        ) from error


def _check_base(reference: str, base: Any, tokenizer: Any, lora: LoraConfig) -> None:
    """ConfigError with everything that does not fit together."""
    modules = dict(base.named_modules())
    absent = [name for name in lora.target_modules if not any(f".{path}".endswith(f".{name}") for path in modules)]
    linear = {path.rpartition(".")[2] for path, module in modules.items() if isinstance(module, nn.Linear)}
    problems = []
    if absent:
        problems.append(
            f"lora.target_modules has {', '.join(absent)}, which {reference} ({type(base).__name__}) does not have; "
            f"its linear layers are: --set lora.target_modules=[{','.join(sorted(linear - {'lm_head'}))}]"
        )
    if len(tokenizer) > base.config.vocab_size:
        problems.append(
            f"the tokenizer of backbones.language_model {reference} has {len(tokenizer)} tokens, but the model only "
            f"{base.config.vocab_size} rows for them; put the tokenizer there that belongs to the model"
        )
    if tokenizer.eos_token_id is None:
        problems.append(
            f"the tokenizer of backbones.language_model {reference} has no end token, so no caption could end; name "
            "one as eos_token in its tokenizer_config.json"
        )
    if problems:
        raise ConfigError(problems)


def _peft_config(lora: LoraConfig) -> PeftLoraConfig:
    return PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )
