"""Suite `retrieval`: does a picture find its captions and a caption its picture (SEED, Table 1).

Rows: causal embeddings and codes through stage 1's heads, and each --peer. For codes: ids -> decode MLP -> blocks ->
rebuilt embeddings -> last token -> head (Ge et al. 2023, section 2.2.2; `forward_image` of the published model).
A dual encoder throughout: no re-ranking. An image's query counts where any of its captions is found.

Protocols:
  seed    captions cut at 35 tokens, pictures squashed: the published evaluation (`compute_sim_matrix` and
          `blip_image_eval` of AILab-CVC/SEED, SEED_Tokenizer)
  train   captions cut at 32 tokens as in training, pictures squashed
  crop    captions cut at 35 tokens, the centre square of pictures: what most CLIPs were evaluated with
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seed_dist.errors import DataError
from seed_dist.metrics.retrieval import Ranks, chance_ranks, ranks_both_ways
from seed_dist.models.vision import FrozenClip
from seed_dist.suites.models import Models
from seed_dist.suites.selection import Options
from seed_dist.suites.suite import Figure, Floats, Record
from seed_dist.testsets.example import Example

KS = (1, 5, 10)
MAX_TOKENS = {"seed": 35, "train": 32, "crop": 35}
_DIRECTIONS = ("i2t", "t2i")


class RetrievalSuite:
    """Records hold features, so that figures come from all of them at once."""

    name = "retrieval"

    def __init__(self, models: Models, options: Options) -> None:
        self._models, self._seed, self._crop = models, options.seed, options.protocol == "crop"
        self._max_tokens = min(MAX_TOKENS[options.protocol], models.qformer.config.text_positions)
        self.rows = ["embedding", *(["codes"] if models.tokenizer_folder else []), *models.peers]
        self.protocol: dict[str, Any] = {
            "name": options.protocol,
            "max_text_tokens": self._max_tokens,
            "geometry": "centre square" if self._crop else "squash",
            "right": "the picture's own captions; ties count by the probability of a hit",
            "rows": self.rows,
            "seed": options.seed,
        }
        peers = {f"peer.{name}": clip.weights_sha256 for name, clip in models.peers.items()}
        self.models: dict[str, Any] = {**models.tokenizer_hashes(), **peers}

    def records(self, examples: Sequence[Example]) -> list[Record]:
        """Unit vectors of each picture and of its captions, for every row of the table."""
        if silent := [example.key for example in examples if not example.captions]:
            raise DataError(f"retrieval needs captions, and {silent[0]} has none; choose another set.")
        pictures = [prepared(example, self._crop) for example in examples]
        captions = [caption for example in examples for caption in example.captions]
        causal = self._models.causal_embeddings(pictures)
        features = {
            "embedding.image": self._models.image_feature(causal),
            "text": self._models.text_feature(captions, self._max_tokens),
        }
        if "codes" in self.rows:
            codes = self._models.codes(causal)
            features["codes.image"] = self._models.image_feature(self._models.tokenizer.reconstruct(codes))
        for name, clip in self._models.peers.items():
            features[f"{name}.image"], features[f"{name}.text"] = _peer(
                clip, pictures, captions, self._models.batch_size
            )
        arrays = {name: values.numpy() for name, values in features.items()}
        ends = np.cumsum([len(example.captions) for example in examples])
        found = []
        for row, example in enumerate(examples):
            own = slice(int(ends[row]) - len(example.captions), int(ends[row]))
            kept = {name: values[own] if name.endswith("text") else values[row] for name, values in arrays.items()}
            found.append(Record(example.key, {"captions": len(example.captions)}, kept))
        return found

    def score(self, records: Sequence[Record], examples: Sequence[Example]) -> list[Figure]:
        """Recalls at 1, 5 and 10 in both directions and the mean of the six, with chance and shuffled captions."""
        owner = torch.tensor([row for row, example in enumerate(examples) for _ in example.captions])
        texts = [caption for example in examples for caption in example.captions]
        images = torch.arange(len(examples))
        shuffled = shuffled_captions(len(examples), self._seed)
        chance = _recalls((chance_ranks(images, owner), chance_ranks(owner, images)))
        figures: list[Figure] = []
        for row in self.rows:
            image = torch.from_numpy(np.stack([record.arrays[f"{row}.image"] for record in records]))
            own = "text" if row in ("embedding", "codes") else f"{row}.text"
            text = same_for_same(texts, np.concatenate([record.arrays[own] for record in records]))
            image, text = image.to(self._models.device), text.to(self._models.device)
            ranks = both_directions(image, text, images, owner)
            control = _recalls(both_directions(image, text, shuffled, owner))
            figures += table(row, ranks, owner, chance, control)
        return figures


def prepared(example: Example, crop: bool) -> Image.Image:
    """The picture of an example as a protocol has it; its square in the middle with `crop`."""
    if example.image is None:
        raise DataError(f"{example.key} has no picture; choose another set.")
    picture = example.image()
    if not crop:
        return picture
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def same_for_same(texts: Sequence[str], features: np.ndarray[Any, Any]) -> Tensor:
    """Features [N, D] with one vector for all occurrences of a text, so that equal captions tie whatever batch each one
    was read in.
    """
    first: dict[str, int] = {}
    rows = [first.setdefault(text, row) for row, text in enumerate(texts)]
    return torch.from_numpy(features[rows])


def shuffled_captions(images: int, seed: int) -> Tensor:
    """Groups of pictures as if their captions were dealt out anew."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(seed))


def both_directions(image: Tensor, text: Tensor, image_group: Tensor, text_group: Tensor) -> tuple[Ranks, Ranks]:
    """Ranks of pictures among captions and of captions among pictures; groups as in `retrieval_ranks`."""
    image_group, text_group = image_group.to(image.device), text_group.to(image.device)
    return ranks_both_ways(image, text, image_group, text_group)


def table(
    row: str, ranks: tuple[Ranks, Ranks], owner: Tensor, chance: dict[str, float], control: dict[str, float]
) -> list[Figure]:
    """The seven figures of a row. The unit that is resampled is the picture with all of its captions."""
    hits = {f"{way}_r{k}": _hits(own, k, owner) for way, own in zip(_DIRECTIONS, ranks, strict=True) for k in KS}
    single = [_figure(f"{row}/{name}", [part], chance[name], control[name]) for name, part in hits.items()]
    return [*single, _figure(f"{row}/r_mean", list(hits.values()), chance["r_mean"], control["r_mean"])]


def recall_figure(name: str, ranks: Ranks, k: int, owner: Tensor, beside: tuple[float, float]) -> Figure:
    """Recall@k of one direction, with (chance, control) beside it."""
    return _figure(name, [_hits(ranks, k, owner)], *beside)


def _hits(ranks: Ranks, k: int, owner: Tensor) -> tuple[Floats, Floats]:
    """(hits, queries) of every picture, of queries that are pictures or the captions that they own."""
    hit, count = ranks.hit_probability(k).numpy(), np.bincount(owner.numpy()).astype(np.float64)
    if len(hit) == len(count):
        return hit, np.ones(len(count))
    return np.bincount(owner.numpy(), hit).astype(np.float64), count


def _figure(name: str, parts: list[tuple[Floats, Floats]], chance: float, control: float) -> Figure:
    """The mean of shares: each part is (hits, queries) of every picture."""
    n = len(parts[0][0])
    value = float(np.mean([hits.sum() / queries.sum() for hits, queries in parts]))
    if all((queries == queries[0]).all() for _, queries in parts):
        values = np.mean([hits / queries for hits, queries in parts], axis=0)
        return Figure(name, value, n, values=values, chance=chance, control=control)
    return Figure(name, value, n, resampled=_share_of(parts), chance=chance, control=control)


def _share_of(parts: list[tuple[Floats, Floats]]) -> Callable[[np.ndarray[Any, Any]], float]:
    return lambda drawn: float(np.mean([hits[drawn].sum() / queries[drawn].sum() for hits, queries in parts]))


def _recalls(ranks: tuple[Ranks, Ranks]) -> dict[str, float]:
    found = {f"{way}_r{k}": own.recall(k) for way, own in zip(_DIRECTIONS, ranks, strict=True) for k in KS}
    return {**found, "r_mean": sum(found.values()) / len(found)}


def _peer(clip: FrozenClip, pictures: Sequence[Image.Image], texts: Sequence[str], size: int) -> tuple[Tensor, Tensor]:
    """Unit vectors of pictures and texts by a CLIP, in batches of `size`."""
    images = [
        clip.image_embedding(clip.processor(pictures[i : i + size], i).to(clip.device)).cpu()
        for i in range(0, len(pictures), size)
    ]
    words = [clip.text_embedding(texts[i : i + size]).cpu() for i in range(0, len(texts), size)]
    return tuple(torch.nn.functional.normalize(torch.cat(parts).float(), dim=-1) for parts in (images, words))  # type: ignore[return-value]
