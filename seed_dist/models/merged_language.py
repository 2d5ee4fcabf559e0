"""A trained language model as one plain transformers model: LoRA merged, image tokens in its vocabulary.

What comes out needs nothing of this project: `AutoModelForCausalLM` and `AutoTokenizer` load it, and the ids of words
and images are those that it was trained with. Here it is read again as what it was made from.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AddedToken

from seed_dist.errors import DataError, MismatchError
from seed_dist.fsio import write_json
from seed_dist.models.image_language import ImageLanguage
from seed_dist.models.language import SeedLanguageModel, description
from seed_dist.models.model_files import CONFIG_NAME
from seed_dist.models.transformers_folder import read_causal_model

PROVENANCE = "provenance.json"
_FACTS = ("first_code", "codes", "code_order")
# Behind the "<" of a name that `_with_image_tokens` gives: cut there, no text is read as an image token.
_IN_NAMES = re.compile(r"(?<=<)(?=(?:img_\d{5,}|/?img|unused_\d{5,})>)")


class MergedLanguageModel(ImageLanguage):
    """A folder of `save_merged`, in eval mode, its weights in `dtype`. In fp32 it says what the adapter on its base
    says.

    DataError or MismatchError for a folder that `save_merged` did not write, or not all of it.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        facts = _facts(folder)
        self.reference = str(folder)
        self.first_code, self.codes, self.code_order = (facts[name] for name in _FACTS)
        self.tokenizer, self.model = read_causal_model(folder, dtype)
        self.positions = getattr(self.model.config, "max_position_embeddings", None)
        self.word_count = self._count_words()
        needed = (self.first_code, self.end_image + 1)
        found = (self.tokenizer.convert_tokens_to_ids(_code_name(0)), int(self.model.config.vocab_size))
        if found != needed:
            action = "Write the folder anew from the adapter: python -m seed_dist.convert WORK/lora/export OUT"
            raise MismatchError(f"(id of {_code_name(0)}, size of the vocabulary) in {folder}", found, needed, action)
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def hidden(self, embeddings: Tensor, **context: Any) -> Any:
        return self.model.base_model(inputs_embeds=embeddings, **context)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(hidden)

    def words(self, text: str) -> list[int]:
        """As of the base's tokenizer, which has no image tokens: the name of one in a text is words."""
        return [i for part in _IN_NAMES.split(text) for i in super(MergedLanguageModel, self).words(part)]

    def _count_words(self) -> int:
        count = self.first_code
        while count > 0 and self.tokenizer.convert_ids_to_tokens(count - 1) == _filler_name(count - 1):
            count -= 1
        return count


def is_merged(folder: Path) -> bool:
    """Whether a folder holds a whole transformers model rather than an adapter."""
    return (folder / CONFIG_NAME).is_file() and not (folder / "adapter_config.json").is_file()


def save_merged(export: Path, folder: Path, base: str | None = None, dtype: torch.dtype = torch.float32) -> list[str]:
    """Merge the adapter that stage 3 exported into its base and write both as a transformers folder.

    `dtype` is that of the written weights; merging is done in fp32. `base`: where the frozen model is, if no longer
    where it was in training. The value is a summary, line by line. Raises DataError where the tokenizer cannot get the
    ids that the model was trained with.
    """
    model = SeedLanguageModel.from_export(export, base)
    tokenizer = _with_image_tokens(model)
    merged = _with_image_rows(model)
    merged.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    variant = model.lora.image_embedding
    ids = {"first_code": model.first_code, "begin_image": model.begin_image, "end_image": model.end_image}
    write_json(folder / PROVENANCE, {**description(export), "code_order": model.code_order, **ids})
    return [
        f"found     adapter on {model.reference}, {model.codes} codes read as {variant}, in {export}",
        f"wrote     {folder}: {type(merged).__name__} of {merged.config.vocab_size} tokens, {str(dtype)[6:]}",
        f"tokens    {_code_name(0)} = {model.first_code} ...; <img> = {model.begin_image}, </img> = {model.end_image}",
    ]


@torch.no_grad()
def _with_image_rows(model: SeedLanguageModel) -> Any:
    """The base with LoRA merged and its embeddings extended. Tied tables stay tied where the image tokens' are."""
    tokens = model.image_tokens
    merged = model.model.merge_and_unload()
    words, scores = merged.get_input_embeddings(), merged.get_output_embeddings()
    read = torch.cat([words.weight, tokens.read_table()])
    merged.set_input_embeddings(nn.Embedding.from_pretrained(read, freeze=False, padding_idx=words.padding_idx))
    if tokens.output_rows is None:
        table = merged.get_input_embeddings().weight
    else:
        merged.config.tie_word_embeddings = False
        table = nn.Parameter(torch.cat([scores.weight, tokens.score_table()]))
    merged.set_output_embeddings(_output_layer(table))
    merged.config.vocab_size = len(read)
    merged.config.architectures = [type(merged).__name__]
    return merged


def _output_layer(table: nn.Parameter) -> nn.Linear:
    layer = nn.Linear(table.shape[1], len(table), bias=False, device="meta")
    layer.weight = table
    return layer


def _with_image_tokens(model: SeedLanguageModel) -> Any:
    """The tokenizer with the image tokens under SEED-LLaMA's names (`<img_00000>`, `<img>`, `</img>`) and our ids.

    Where the base has more rows than its tokenizer has tokens (OPT: 50272 and 50265), tokens that nothing writes fill
    the gap. In training the words of a caption are encoded apart from its image, so prompts should be too: tokenizers
    like LLaMA's mark where a text begins.
    """
    tokenizer, first = model.tokenizer, model.first_code
    fillers = [_filler_name(i) for i in range(len(tokenizer), first)]
    names = [*map(_code_name, range(model.codes)), "<img>", "</img>"]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in (*fillers, *names)])
    found = tokenizer.convert_tokens_to_ids(names)
    wrong = [(name, given, i) for i, (name, given) in enumerate(zip(names, found, strict=True), first) if given != i]
    if wrong:
        raise DataError(
            f"the tokenizer of {model.reference} gives {wrong[0][0]} the id {wrong[0][1]}, but it was trained as "
            f"{wrong[0][2]}. The tokenizer has a token of that name, or of a filler's; rename it in its tokenizer.json."
        )
    return tokenizer


def _code_name(code: int) -> str:
    return f"<img_{code:05d}>"


def _filler_name(token: int) -> str:
    return f"<unused_{token:05d}>"


def _facts(folder: Path) -> dict[str, Any]:
    """What PROVENANCE says of the image tokens."""
    path, again = folder / PROVENANCE, "write the model anew: python -m seed_dist.convert WORK/lora/export OUT"
    try:
        values = {"code_order": "causal", **json.loads(path.read_bytes())}
    except FileNotFoundError:
        raise DataError(
            f"{folder} holds no {PROVENANCE}, which says where its image tokens are. Copy it from where the model was "
            f"merged, or {again}"
        ) from None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is no JSON object ({error}). Copy it again, or {again}") from error
    kinds = (int, int, str)
    if wrong := [n for n, kind in zip(_FACTS, kinds, strict=True) if not isinstance(values.get(n), kind)]:
        raise DataError(f"{path} does not say {', '.join(wrong)} of a merged model. Copy it again, or {again}")
    return values
