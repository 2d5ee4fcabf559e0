"""An off-the-shelf language model that reads and writes image codes: frozen base, LoRA, and a table of new token rows.

Ids below the base vocabulary are words. Id `first_code + k` is image code k; the last two are the begin- and
end-of-image marks. Only the new rows and the adapters are trained, so the base embeddings stay what they were. The new
rows serve input and output where the base ties its embeddings (OPT); otherwise (LLaMA) there is one table for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from seed_dist.assets import resolve
from seed_dist.config import LoraConfig
from seed_dist.errors import DataError
from seed_dist.fsio import write_json
from seed_dist.models.code_order import as_encoded, as_written

IGNORE = -100  # label of a position that is not scored (torch's cross-entropy convention)


class SeedLanguageModel(nn.Module):
    """A causal language model over words and `codes` image codes.

    Codes are given and returned by position, as the tokenizer makes them; within sequences they stand in
    `lora.code_order`.
    """

    def __init__(self, reference: str, codes: int, lora: LoraConfig, adapter: Path | None = None) -> None:
        super().__init__()
        folder = resolve(reference)
        self.reference, self.codes, self.lora = reference, codes, lora
        self.tokenizer = cast(Any, AutoTokenizer.from_pretrained(folder))
        base = cast(Any, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
        self.first_code = int(base.config.vocab_size)
        self.begin_image, self.end_image = self.first_code + codes, self.first_code + codes + 1
        width = base.get_input_embeddings().weight.shape[1]
        scale = float(base.get_input_embeddings().weight.detach().std())
        self.rows = nn.Parameter(torch.randn(codes + 2, width) * scale)
        tied = bool(base.config.tie_word_embeddings)
        self.output_rows = None if tied else nn.Parameter(torch.randn(codes + 2, width) * scale)
        if adapter is None:
            self.model = cast(Any, get_peft_model(base, _peft_config(lora)))
        else:
            self.model = cast(Any, PeftModel.from_pretrained(base, adapter, is_trainable=True))

    @torch.no_grad()
    def start_rows_from(self, codebook: Tensor, seed: int) -> None:
        """Start the code rows as a fixed random projection of the codebook [codes, c], at the scale of word rows.

        Similar codes then start as similar words; published SEED-OPT feeds codebook vectors through a linear layer.
        """
        centred = codebook.float() - codebook.float().mean(0)
        generator = torch.Generator().manual_seed(seed)
        projected = centred @ torch.randn(codebook.shape[1], self.rows.shape[1], generator=generator)
        projected *= self.rows.std() / projected.std()
        for table in (self.rows, self.output_rows):
            if table is not None:
                table[: self.codes] = projected

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [B, T] -> input embeddings [B, T, width]."""
        words = self._base().get_input_embeddings()
        is_new = ids >= self.first_code
        old = words(ids.masked_fill(is_new, 0))
        new = F.embedding((ids - self.first_code).clamp_min(0), self.rows)
        return torch.where(is_new.unsqueeze(-1), new, old)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., width] -> scores over words, codes and the two marks."""
        table = self.rows if self.output_rows is None else self.output_rows
        return torch.cat([self._base().get_output_embeddings()(hidden), hidden @ table.T], dim=-1)

    def forward(self, ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """Mean next-token cross-entropy over the scored positions; `labels` [B, T] is `ids` with IGNORE elsewhere."""
        hidden = self._backbone()(inputs_embeds=self.embed(ids), attention_mask=attention_mask).last_hidden_state
        scored = labels[:, 1:] != IGNORE
        return F.cross_entropy(self.logits(hidden[:, :-1][scored]), labels[:, 1:][scored])

    def sequences(self, captions: Sequence[str], codes: Tensor, caption_first: Tensor) -> dict[str, Tensor]:
        """Training rows: `<s> image caption </s>` scored on the caption, `<s> caption image </s>` scored on the image.

        `codes` int [B, Q]; `caption_first` bool [B]. Returns ids, attention_mask and labels, right-padded int64 [B, T].
        Raises DataError when a row is longer than `lora.max_tokens`: an image is never cut.
        """
        start, end = [self.tokenizer.bos_token_id], [self.tokenizer.eos_token_id]
        rows: list[list[int]] = []
        scored_from: list[int] = []
        written = as_written(codes, self.lora.code_order)
        for caption, image_codes, flip in zip(captions, written.tolist(), caption_first.tolist(), strict=True):
            words = self.tokenizer.encode(caption, add_special_tokens=False)
            image = [self.begin_image, *(self.first_code + code for code in image_codes), self.end_image]
            first, second = (words, image) if flip else (image, words)
            rows.append(start + first + second + end)
            scored_from.append(1 + len(first))
        longest = max(map(len, rows))
        if longest > self.lora.max_tokens:
            raise DataError(
                f"an image with its caption takes {longest} tokens, but lora.max_tokens is {self.lora.max_tokens}. "
                "Raise lora.max_tokens or shorten the captions."
            )
        return _padded(rows, scored_from, longest, self.tokenizer.pad_token_id or 0)

    @torch.inference_mode()
    def generate_captions(self, codes: Tensor, max_words: int = 32) -> list[str]:
        """Greedy captions of images given as codes int [B, Q]."""
        start = torch.full((len(codes), 1), self.tokenizer.bos_token_id)
        marks = [torch.full((len(codes), 1), mark) for mark in (self.begin_image, self.end_image)]
        written = as_written(codes.long().cpu(), self.lora.code_order)
        prompt = torch.cat([start, marks[0], written + self.first_code, marks[1]], dim=1)
        outputs = self._greedy(prompt, self.tokenizer.eos_token_id, max_words)
        return [
            self.tokenizer.decode([i for i in row if i < self.first_code], skip_special_tokens=True) for row in outputs
        ]

    @torch.inference_mode()
    def generate_images(self, captions: Sequence[str], queries: int, force_image: bool = False) -> list[list[int]]:
        """What the model writes after each caption, greedily, up to the end-of-image mark.

        The value of each caption is the list of token ids after it; `valid_codes` tells images from others. Unforced
        the model may write anything; with `force_image` only begin mark, `queries` codes and end mark can come.
        """
        allowed = self._image_grammar(queries) if force_image else None
        out: dict[int, list[int]] = {}
        prompts = [[self.tokenizer.bos_token_id, *self.tokenizer.encode(c, add_special_tokens=False)] for c in captions]
        for length in sorted({len(prompt) for prompt in prompts}):  # equal lengths together: no padding in attention
            members = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
            prompt = torch.tensor([prompts[i] for i in members])
            rows = self._greedy(prompt, self.end_image, queries + 2, allowed)
            out.update(zip(members, rows, strict=True))
        return [out[i] for i in range(len(captions))]

    def valid_codes(self, row: Sequence[int], queries: int) -> list[int] | None:
        """The `queries` image codes of a generated row, or None where it is not exactly begin, codes, end."""
        if len(row) != queries + 2 or row[0] != self.begin_image or row[-1] != self.end_image:
            return None
        codes = [token - self.first_code for token in row[1:-1]]
        if not all(0 <= code < self.codes for code in codes):
            return None
        return as_encoded(torch.tensor(codes), self.lora.code_order).tolist()

    def _image_grammar(self, queries: int) -> Tensor:
        """Bool [Q + 2, vocabulary]: which tokens may stand at each place of an image."""
        allowed = torch.zeros(queries + 2, self.end_image + 1, dtype=torch.bool, device=self.rows.device)
        allowed[0, self.begin_image] = allowed[-1, self.end_image] = True
        allowed[1:-1, self.first_code : self.begin_image] = True
        return allowed

    def _greedy(self, prompt: Tensor, stop: int, max_new: int, allowed: Tensor | None = None) -> list[list[int]]:
        """Greedy continuation of equally long prompts [B, T]; each row ends after its first `stop` token.

        `allowed` [max_new, vocabulary] names the tokens that each place may hold; all by default. A base with learned
        positions ends all rows where its positions end.
        """
        positions = getattr(self._base().config, "max_position_embeddings", None)
        if positions is not None:
            max_new = min(max_new, positions - prompt.shape[1] + 1)  # the last token is not fed back
        device = self.rows.device
        embeddings = self.embed(prompt.to(device))
        new = torch.empty(len(prompt), 0, dtype=torch.long, device=device)
        cache = None
        for place in range(max_new):
            state = self._backbone()(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
            cache = state.past_key_values
            scores = self.logits(state.last_hidden_state[:, -1])
            if allowed is not None:
                scores = scores.masked_fill(~allowed[place], -torch.inf)
            token = scores.argmax(-1, keepdim=True)
            new = torch.cat([new, token], dim=1)
            if bool((new == stop).any(dim=1).all()):
                break
            embeddings = self.embed(token)
        return [row[: row.index(stop) + 1] if stop in row else row for row in new.tolist()]

    def save_pretrained(self, folder: Path, provenance: dict[str, Any]) -> None:
        """The adapter in peft's format, the new rows and what they belong to; never the base."""
        self.model.save_pretrained(folder)
        tables = {"rows": self.rows, "output_rows": self.output_rows}
        save_file({k: t.detach().contiguous() for k, t in tables.items() if t is not None}, folder / "rows.safetensors")
        described = {"base": self.reference, "codes": self.codes, "first_code": self.first_code, **provenance}
        write_json(folder / "seed_language_model.json", described)

    @classmethod
    def from_pretrained(cls, folder: Path, reference: str, codes: int, lora: LoraConfig) -> SeedLanguageModel:
        model = cls(reference, codes, lora, adapter=folder)
        tables = load_file(folder / "rows.safetensors")
        if tables["rows"].shape != model.rows.shape:
            raise DataError(
                f"{folder / 'rows.safetensors'} has rows {tuple(tables['rows'].shape)}, but codebook.size {codes} and "
                f"{reference} need {tuple(model.rows.shape)}. Use the recipe that the adapter was trained with."
            )
        model.load_state_dict(tables, strict=False)
        return model.eval()

    def _base(self) -> Any:
        return self.model.get_base_model()

    def _backbone(self) -> Any:
        """The transformer without its output layer; LoRA is already inside its linear layers."""
        return self._base().base_model


def _peft_config(lora: LoraConfig) -> PeftLoraConfig:
    return PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )


def _padded(rows: list[list[int]], scored_from: list[int], length: int, pad: int) -> dict[str, Tensor]:
    ids = torch.full((len(rows), length), pad)
    labels = torch.full((len(rows), length), IGNORE)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, (row, first) in enumerate(zip(rows, scored_from, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, first : len(row)] = torch.tensor(row[first:])
        mask[i, : len(row)] = 1
    return {"ids": ids, "attention_mask": mask, "labels": labels}
