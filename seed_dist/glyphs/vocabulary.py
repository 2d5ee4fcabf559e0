"""The word-level tokenizer that all glyph models share, in the transformers format (tokenizer.json).

`</s>` has the highest id because open_clip's default text pooling takes the place of the largest id as the end of text.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from seed_dist.glyphs.scenes import WORDS

MAX_TEXT_TOKENS = 16  # <s> + the longest caption (10 words) + </s>, rounded up


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the scene grammar's words: `<s> words </s>`, padded with `<pad>`."""
    vocabulary = ["<pad>", "<unk>", "<s>", *WORDS, "</s>"]
    ids = {word: i for i, word in enumerate(vocabulary)}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", ids["<s>"]), ("</s>", ids["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=MAX_TEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(folder: Path) -> None:
    build_tokenizer().save_pretrained(folder)
