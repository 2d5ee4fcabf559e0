"""A trained language model as one plain transformers model: LoRA merged, image tokens in its vocabulary.

What comes out needs nothing of this project: `AutoModelForCausalLM` and `AutoTokenizer` load it, and the ids of words
and images are those that it was trained with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AddedToken

from seed_dist.errors import DataError
from seed_dist.fsio import write_json
from seed_dist.models.language import SeedLanguageModel, description

PROVENANCE = "provenance.json"


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
    write_json(folder / PROVENANCE, {**description(export), **ids})
    return [
        f"found     adapter on {model.reference}, {model.codes} codes read as {variant}, in {export}",
        f"wrote     {folder}: {type(merged).__name__} of {merged.config.vocab_size} tokens, {str(dtype)[6:]}",
        f"tokens    <img_{0:05d}> = {model.first_code} ...; <img> = {model.begin_image}, </img> = {model.end_image}",
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
    fillers = [f"<unused_{i:05d}>" for i in range(len(tokenizer), first)]
    names = [*(f"<img_{code:05d}>" for code in range(model.codes)), "<img>", "</img>"]
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in (*fillers, *names)])
    found = tokenizer.convert_tokens_to_ids(names)
    wrong = [(name, given, i) for i, (name, given) in enumerate(zip(names, found, strict=True), first) if given != i]
    if wrong:
        raise DataError(
            f"the tokenizer of {model.reference} gives {wrong[0][0]} the id {wrong[0][1]}, but it was trained as "
            f"{wrong[0][2]}. The tokenizer has a token of that name, or of a filler's; rename it in its tokenizer.json."
        )
    return tokenizer
