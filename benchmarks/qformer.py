"""The image pass of stage 1, forward and backward at real size, against transformers' Blip2QFormerModel with SDPA.

  python -m benchmarks.qformer

185.7 M parameters in all, 105 M of them here: 32 queries read cached features [B, 257, 1408] in fp32, `ln_vision` is
trained, the loss looks at the last query as stage 1's does. Both have the same weights; before timing, outputs and
gradients are compared. Two more lines say what the parts of the difference are worth: `all_queries` has a loss on
every query, and `projected` computes the memory's keys and values as theirs does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.hardware import keep, load
from benchmarks.rounds import interleaved, medians, peak_memory_bytes, print_peak_memory, times_faster
from seed_dist.config import QFormerConfig
from seed_dist.models import attention
from seed_dist.models.interop import to_published
from seed_dist.models.memory_attention import is_cheaper
from seed_dist.models.qformer import VISION_NORM_EPS, CausalQFormer

from transformers import Blip2QFormerConfig, Blip2QFormerModel  # isort: skip  # after seed_dist.models, whose guard it needs

PATCHES, VISION_WIDTH = 257, 1408
_TO_TRANSFORMERS = (
    ("Qformer.bert.embeddings.LayerNorm.", "layernorm."),
    ("Qformer.bert.encoder.", "encoder."),
    ("attention.self.", "attention.attention."),
)


class Theirs(nn.Module):
    """What a user of transformers would train: LayerNorm of the features, queries, Blip2QFormerModel."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        config = Blip2QFormerConfig(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        self.model = Blip2QFormerModel._from_config(config, attn_implementation="sdpa")
        self.ln_vision = nn.LayerNorm(VISION_WIDTH, eps=VISION_NORM_EPS)
        self.queries = nn.Parameter(torch.empty(1, 32, config.hidden_size))

    def forward(self, features: Tensor) -> Tensor:
        queries = self.queries.expand(len(features), -1, -1)
        output: Tensor = self.model(query_embeds=queries, encoder_hidden_states=self.ln_vision(features))[0]
        return output

    def take_over(self, ours: CausalQFormer) -> None:
        """The weights of `ours`, under transformers' names."""
        weights = to_published({k: v for k, v in ours.state_dict().items() if "text" not in k})
        self.queries.data.copy_(weights.pop("query_tokens"))
        for name in ("weight", "bias"):
            getattr(self.ln_vision, name).data.copy_(weights.pop(f"ln_vision.{name}"))
        renamed = {}
        for name, tensor in weights.items():
            for old, new in _TO_TRANSFORMERS:
                name = name.replace(old, new)
            renamed[name] = tensor
        self.model.load_state_dict(renamed, strict=True)


def step(module: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], object]:
    """One forward and backward pass with gradients from zero."""

    def run() -> None:
        for parameter in module.parameters():
            parameter.grad = None
        output = forward()  # after the final norm a plain mean of squares would be constant
        (output * torch.linspace(-1, 1, output.shape[-1])).mean().backward()

    return run


def arms(batch: int, dropout: float) -> tuple[dict[str, Callable[[], object]], CausalQFormer, Theirs]:
    torch.manual_seed(0)
    # transformers has no causal mask for queries; a mask changes neither side's work
    ours = CausalQFormer(QFormerConfig(dropout=dropout, causal=False), text_path=False).train()
    theirs = Theirs(dropout).train()
    theirs.take_over(ours)
    features = torch.randn(batch, PATCHES, VISION_WIDTH)

    def projected() -> Tensor:
        vars(attention)["is_cheaper"] = lambda *_: False
        return ours.embed_image(features, last_only=True)

    def cheaper(last_only: bool) -> Tensor:
        vars(attention)["is_cheaper"] = is_cheaper
        return ours.embed_image(features, last_only=last_only)

    steps = {
        "theirs": step(theirs, lambda: theirs(features)[:, -1:]),
        "ours": step(ours, lambda: cheaper(last_only=True)),
        "theirs_all_queries": step(theirs, lambda: theirs(features)),
        "ours_all_queries": step(ours, lambda: cheaper(last_only=False)),
        "ours_projected": step(ours, projected),
    }
    return steps, ours, theirs


def largest_difference(batch: int) -> dict[str, float]:
    """Relative to the largest value: outputs, and gradients of queries and `ln_vision`, without dropout."""
    steps, ours, theirs = arms(batch, 0.0)
    found = {}
    for name in ("", "_all_queries"):
        for arm in ("theirs", "ours"):
            steps[arm + name]()
        pairs = {
            "queries": (ours.query_tokens, theirs.queries),
            "gain": (ours.ln_vision.weight, theirs.ln_vision.weight),
            "shift": (ours.ln_vision.bias, theirs.ln_vision.bias),
        }
        for what, (a, b) in pairs.items():
            assert a.grad is not None
            assert b.grad is not None
            found[what + name] = float((a.grad - b.grad).abs().max() / b.grad.abs().max())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--dropout", type=float, default=0.0, help="published: 0.1; torch's CPU attention is slow with it"
    )
    parser.add_argument("--peak", nargs=2, metavar=("ARM", "BATCH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        run = arms(int(args.peak[1]), args.dropout)[0][args.peak[0]]
        run(), run()
        print_peak_memory()
        return
    result: dict[str, Any] = {
        "work": f"features [B, {PATCHES}, {VISION_WIDTH}] fp32, dropout {args.dropout}, forward and backward",
        "threads": args.threads,
        "load_average_before": load(),
        "rounds": args.rounds,
        "largest_relative_difference_of_gradients": largest_difference(2),
    }
    for batch in (4, 8):
        seconds = interleaved(arms(batch, args.dropout)[0], args.rounds)
        result[f"batch_{batch}"] = {
            "median_seconds": medians(seconds),
            "ours_against_theirs": times_faster(seconds, "ours", "theirs"),
            "ours_against_theirs_all_queries": times_faster(seconds, "ours_all_queries", "theirs_all_queries"),
            "ours_against_projected": times_faster(seconds, "ours", "ours_projected"),
            "peak_memory_bytes": {
                arm: peak_memory_bytes(
                    "qformer",
                    ["--peak", arm, str(batch), "--dropout", str(args.dropout), "--threads", str(args.threads)],
                )
                for arm in ("theirs", "ours")
            },
        }
    keep("qformer" if args.dropout == 0 else f"qformer_dropout_{args.dropout}", result, ["torch", "transformers"])


if __name__ == "__main__":
    main()
