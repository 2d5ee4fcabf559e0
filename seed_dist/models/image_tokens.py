"""What image codes are to a language model: vectors that it reads and rows that it scores its output against."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageTokens(nn.Module):
    """`codes` image codes, then the begin- and the end-of-image mark, beside the words of a frozen base.

    They are read in one of two ways (`lora.image_embedding`):

    rows      a new embedding row for each (SEED-LLaMA). Where the base ties its embeddings (OPT) the same rows are
              scored against; otherwise (LLaMA) there is a second table, `output_rows`.
    codebook  the codebook's vector, frozen, through one trained linear layer (SEED-OPT: arXiv 2307.08041, section 3);
              the marks are rows. What predicts the codes there is not published. Here it is `output_rows`, trained
              from random values like those of the other variant.
    """

    codebook: Tensor

    def __init__(self, codes: int, words: Tensor, tied: bool, codebook: Tensor | None = None) -> None:
        """`words` [V, width]: the base's word embeddings, for width and scale. `tied`: whether it scores with them too.

        `codebook` float [codes, c] chooses the second variant.
        """
        super().__init__()
        scale, width = words.detach().float().std(), words.shape[1]
        if codebook is None:
            self.rows = nn.Parameter(torch.randn(codes + 2, width) * scale)
        else:
            self.register_buffer("codebook", codebook.detach().float().clone())
            self.projection = _projection(self.codebook, width, scale)
            self.marks = nn.Parameter(torch.randn(2, width) * scale)
        shared = tied and codebook is None
        self.output_rows = None if shared else nn.Parameter(torch.randn(codes + 2, width) * scale)
        self.codes = codes

    @property
    def has_rows(self) -> bool:
        """Whether codes are read as rows of their own."""
        return hasattr(self, "rows")

    def read_table(self) -> Tensor:
        """[codes + 2, width]: what the model reads for each code and the two marks."""
        if self.has_rows:
            return self.rows
        return torch.cat([self.projection(self.codebook.to(self.marks.dtype)), self.marks])

    def score_table(self) -> Tensor:
        """[codes + 2, width]: hidden states times this are the scores of the codes and the two marks."""
        return self.rows if self.output_rows is None else self.output_rows

    @torch.no_grad()
    def start_rows_from(self, codebook: Tensor, seed: int) -> None:
        """Start the code rows as a fixed random projection of the codebook [codes, c], at the scale of word rows, so
        that similar codes start as similar words."""
        centred = codebook.float() - codebook.float().mean(0)
        generator = torch.Generator().manual_seed(seed)
        projected = centred @ torch.randn(codebook.shape[1], self.rows.shape[1], generator=generator)
        projected *= self.rows.std() / projected.std()
        for table in (self.rows, self.output_rows):
            if table is not None:
                table[: self.codes] = projected


@torch.no_grad()
def _projection(codebook: Tensor, width: int, scale: Tensor) -> nn.Linear:
    """A random linear layer that maps the codebook's vectors to mean zero and the spread of word rows."""
    layer = nn.Linear(codebook.shape[1], width)
    mean = codebook.mean(0)
    layer.weight.normal_()
    layer.weight *= scale / ((codebook - mean) @ layer.weight.T).std()
    layer.bias.copy_(-layer.weight @ mean)
    return layer
