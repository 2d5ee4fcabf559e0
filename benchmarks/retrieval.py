"""Retrieval of 5,000 pictures and 25,000 captions (D = 256): ours in blocks, and one matrix as open_clip evaluates.

  python -m benchmarks.retrieval

`one matrix` is open_clip's `get_clip_metrics` (open_clip_train/train.py) for several captions per picture: all scores,
the whole order of every query, the place of the first right one. `top ten of one matrix` stops at the ten best, as
published recalls need no more; ties it breaks as they come. All give the same recalls on these features, which the
command checks first. Ratios are of wall-clock time in interleaved rounds; processor time stands beside them, because
other work on a machine takes from the former only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.hardware import keep, load
from benchmarks.rounds import interleaved, medians, peak_memory_bytes, print_peak_memory, times_faster
from seed_dist.metrics.retrieval import ranks_both_ways

PICTURES, CAPTIONS_EACH, WIDTH = 5000, 5, 256
KS = (1, 5, 10)


def features() -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors of pictures and captions, and the captions' owners; hits about as many as a good model's."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(PICTURES, WIDTH, generator=generator)
    owner = torch.arange(PICTURES).repeat_interleave(CAPTIONS_EACH)
    text = image[owner] + 3.2 * torch.randn(len(owner), WIDTH, generator=generator)
    unit = torch.nn.functional.normalize
    return unit(image, dim=1), unit(text, dim=1), owner


def ours(image: Tensor, text: Tensor, owner: Tensor) -> list[float]:
    pictures = torch.arange(len(image))
    return [ranks.recall(k) for ranks in ranks_both_ways(image, text, pictures, owner) for k in KS]


def one_matrix(image: Tensor, text: Tensor, owner: Tensor) -> list[float]:
    """The whole order of every query, and where the first right one stands in it."""
    scores = image @ text.T
    pictures = torch.arange(len(image))
    places = []
    for table, wanted, groups in ((scores, pictures, owner), (scores.T, owner, pictures)):
        order = torch.argsort(table, dim=1, descending=True)
        places.append((groups[order] == wanted[:, None]).int().argmax(1))
    return [float((place < k).double().mean()) for place in places for k in KS]


def top_ten(image: Tensor, text: Tensor, owner: Tensor) -> list[float]:
    scores = image @ text.T
    pictures = torch.arange(len(image))
    found = []
    for table, wanted, groups in ((scores, pictures, owner), (scores.T, owner, pictures)):
        right = groups[table.topk(max(KS), dim=1).indices] == wanted[:, None]
        found += [float(right[:, :k].any(1).double().mean()) for k in KS]
    return found


def processor_seconds(arm: Callable[[], object]) -> float:
    began_s = time.process_time()
    arm()
    return round(time.process_time() - began_s, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--peak", choices=("nothing", "ours", "one matrix", "top ten of one matrix"), help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    image, text, owner = features()
    arms: dict[str, Callable[[], list[float]]] = {
        "ours": lambda: ours(image, text, owner),
        "one matrix": lambda: one_matrix(image, text, owner),
        "top ten of one matrix": lambda: top_ten(image, text, owner),
    }
    if args.peak:
        arms.get(args.peak, list)()
        print_peak_memory()
        return
    recalls = {name: arm() for name, arm in arms.items()}
    assert recalls["ours"] == recalls["one matrix"] == recalls["top ten of one matrix"], recalls
    load_before = load()
    seconds = interleaved(arms, args.rounds)
    base = peak_memory_bytes("retrieval", ["--peak", "nothing"])
    keep(
        "retrieval",
        {
            "work": f"{PICTURES} pictures, {CAPTIONS_EACH * PICTURES} captions of {WIDTH}, fp32, both directions",
            "threads": args.threads,
            "load_average_before": load_before,
            "rounds": args.rounds,
            "recalls_equal": True,
            "recalls": dict(zip([f"{way}_r{k}" for way in ("i2t", "t2i") for k in KS], recalls["ours"], strict=True)),
            "median_seconds": medians(seconds),
            "processor_seconds": {name: processor_seconds(arm) for name, arm in arms.items()},
            "ours_against_one_matrix": times_faster(seconds, "ours", "one matrix"),
            "ours_against_top_ten": times_faster(seconds, "ours", "top ten of one matrix"),
            "peak_memory_bytes_above_inputs": {
                name: peak_memory_bytes("retrieval", ["--peak", name]) - base for name in arms
            },
        },
        ["torch"],
    )


if __name__ == "__main__":
    main()
