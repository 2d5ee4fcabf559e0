"""Nearest of 8192 codes for 8192 vectors of 32: ours, the usual torch formula, and faiss's flat index if installed.

  python -m benchmarks.nearest_codes        (with faiss-cpu installed, faiss is measured too)

Before timing, all answers are compared with float64.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.hardware import keep, load
from benchmarks.rounds import interleaved, medians, peak_memory_bytes, print_peak_memory, times_faster
from seed_dist.models.nearest import nearest_codes

VECTORS, CODES, WIDTH = 8192, 8192, 32


def naive(vectors: Tensor, codes: Tensor) -> Tensor:
    """The formula of most public quantizers: all squared distances, then the smallest."""
    distances = vectors.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * vectors @ codes.T
    return distances.argmin(1)


def by_faiss(codes: Tensor, threads: int) -> Callable[[Tensor], Tensor]:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatL2(WIDTH)
    index.add(codes.numpy())
    return lambda vectors: torch.from_numpy(index.search(vectors.numpy(), 1)[1][:, 0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", choices=("nothing", "naive", "ours"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    codes, vectors = (torch.randn(count, WIDTH, generator=generator) for count in (CODES, VECTORS))
    arms: dict[str, Callable[[], Tensor]] = {
        "naive": lambda: naive(vectors, codes),
        "ours": lambda: nearest_codes(vectors, codes),
    }
    if args.peak:
        arms.get(args.peak, lambda: vectors)()
        print_peak_memory()
        return
    packages = ["torch"]
    if importlib.util.find_spec("faiss"):
        search = by_faiss(codes, args.threads)
        arms["faiss"] = lambda: search(vectors)
        packages.append("faiss-cpu")
    load_before = load()
    seconds = interleaved(arms, args.rounds)
    base = peak_memory_bytes("nearest_codes", ["--peak", "nothing"])
    published = (torch.rand(CODES, WIDTH, generator=generator) * 2 - 1) / CODES
    keep(
        "nearest_codes",
        {
            "work": f"{VECTORS} vectors, {CODES} codes of {WIDTH}, fp32",
            "threads": args.threads,
            "load_average_before": load_before,
            "rounds": args.rounds,
            "median_seconds": medians(seconds),
            "ours_against_naive": times_faster(seconds, "ours", "naive"),
            **({"ours_against_faiss": times_faster(seconds, "ours", "faiss")} if "faiss" in arms else {}),
            "peak_memory_bytes_above_inputs": {
                name: peak_memory_bytes("nearest_codes", ["--peak", name]) - base for name in ("naive", "ours")
            },
            "wrong_on_random_codes": {name: wrong(arm(), vectors, codes) for name, arm in arms.items()},
            "wrong_on_published_initialisation": {
                "naive": wrong(naive(vectors, published), vectors, published),
                "ours": wrong(nearest_codes(vectors, published), vectors, published),
            },
        },
        packages,
    )


def wrong(found: Tensor, vectors: Tensor, codes: Tensor) -> int:
    """How many of the answers differ from those in float64."""
    exact = (codes.double().square().sum(1) / 2 - vectors.double() @ codes.double().T).argmin(1)
    return int((found != exact).sum())


if __name__ == "__main__":
    main()
