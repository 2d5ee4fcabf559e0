"""What benchmarks/loader.py compares: the same samples as batches of 16-bit arrays, by ours and by others.

Each is used as its documentation shows, without workers, in the order of the file. What it needs is imported where it
is used, so that a new process imports nothing else.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
# What a process that goes on with a source imports, and those that can go on.
IMPORTS = {
    "ours, shuffled": "import seed_dist.data.prefetch, seed_dist.data.reader, seed_dist.order",
    "webdataset": "import webdataset",
    "streaming": "import seed_dist.models, streaming",  # its guard, for torchvision beside a CPU build of torch
    "torchdata": "import seed_dist.models, streaming, torchdata.stateful_dataloader",
}
STATES = {"streaming": "streaming.json", "torchdata": "torchdata.pt"}


def pages(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """New memory that begins with a page, as pinned memory does: copies to odd addresses take twice as long."""
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, size_bytes), dtype).reshape(shape)


def raw_pieces(work: Path, targets: Sequence[str]) -> Iterator[list[npt.NDArray[Any]]]:
    """The bytes of all shards, through one buffer of 8 MB."""
    buffer = pages((8 << 20,), np.uint8)
    for target in targets:
        for path in sorted((work / "features" / target / "train").glob("*.tar")):
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):  # type: ignore[arg-type]
                    yield [buffer[:count]]


def our_batches(features: Any, batch: int, is_shuffled: bool, first: int = 0) -> Iterator[list[npt.NDArray[Any]]]:
    """As the training loop reads `PairedFeatures`, from step `first` to the end of the epoch."""
    from seed_dist.data.prefetch import Work, prefetched
    from seed_dist.order import SampleOrder, block_samples

    order = SampleOrder(len(features), 1, block_samples(features.sample_bytes))

    def make(step: int, slot: Arrays) -> Arrays:
        ids = order.batch(step, batch) if is_shuffled else np.arange(step * batch, (step + 1) * batch)
        return dict(features.read(np.sort(ids), slot))

    def slots() -> list[Arrays]:
        sets = features.sets.items()
        return [{target: pages((batch, *shards.shape), shards.dtype) for target, shards in sets} for _ in range(2)]

    work = Work(make, slots, features.read_of, timeout_s=60.0)
    return (list(arrays.values()) for arrays in prefetched(work, first, len(features) // batch))


def webdataset_batches(work: Path, targets: Sequence[str], batch: int, first: int = 0) -> Iterator[Any]:
    """From a step on: it has no state, so what came before is skipped, undecoded."""
    import webdataset

    names = [f"{target}.npy" for target in targets]
    paths = sorted(map(str, (work / "webdataset").glob("*.tar")))
    data = webdataset.WebDataset(paths, shardshuffle=False)
    if first:
        data = data.slice(first * batch, None)
    return iter(data.decode().to_tuple(*names).batched(batch))


def streaming_set(work: Path, batch: int) -> Any:
    import seed_dist.models  # noqa: F401 - its guard

    import streaming  # isort: skip

    streaming.base.util.clean_stale_shared_memory()
    return streaming.StreamingDataset(local=str(work / "streaming"), shuffle=False, batch_size=batch)


def streaming_batches(work: Path, targets: Sequence[str], batch: int, state: Path | None = None) -> Iterator[Any]:
    """From the start, or from the state that a run has saved."""
    from torch.utils.data import DataLoader

    data = streaming_set(work, batch)
    if state is not None:
        data.load_state_dict(json.loads(state.read_text()))
    return ([arrays[target].numpy() for target in targets] for arrays in DataLoader(data, batch_size=batch))


def torchdata_loader(work: Path, batch: int) -> Any:
    """A StatefulDataLoader of a set with random access, which is its best case; MDS files serve as that."""
    data = streaming_set(work, batch)
    from torch.utils.data import Dataset
    from torchdata.stateful_dataloader import StatefulDataLoader

    class ByNumber(Dataset[Any]):
        def __len__(self) -> int:
            return int(data.num_samples)

        def __getitem__(self, number: int) -> Any:
            return data[number]

    return StatefulDataLoader(ByNumber(), batch_size=batch)


def torchdata_batches(work: Path, targets: Sequence[str], batch: int, state: Path) -> Iterator[Any]:
    """From the state that a run has saved."""
    import torch

    loader = torchdata_loader(work, batch)
    loader.load_state_dict(torch.load(state))
    return ([arrays[target].numpy() for target in targets] for arrays in loader)


def save_states(work: Path, batch: int, step: int) -> None:
    """What a run that is killed after `step` steps leaves behind for the sources that have a state."""
    import torch

    data = streaming_set(work, batch)
    next(iter(data))
    (work / STATES["streaming"]).write_text(json.dumps(data.state_dict(step * batch, from_beginning=True)))
    loader = torchdata_loader(work, batch)
    iterator = iter(loader)
    for _ in range(step):
        next(iterator)
    torch.save(loader.state_dict(), work / STATES["torchdata"])


def resumed(source: str, work: Path, targets: Sequence[str], batch: int, step: int) -> Iterator[Any]:
    """The batches of a new process that goes on at a step."""
    if source == "webdataset":
        return webdataset_batches(work, targets, batch, step)
    if source == "streaming":
        return streaming_batches(work, targets, batch, work / STATES["streaming"])
    if source == "torchdata":
        return torchdata_batches(work, targets, batch, work / STATES["torchdata"])
    from seed_dist.data.reader import PairedFeatures

    return our_batches(PairedFeatures(work, "train", targets), batch, is_shuffled=True, first=step)


ByTarget = Callable[[int], Arrays]


def write_others(work: Path, samples: int, sample: ByTarget) -> None:
    """The samples as webdataset's and MosaicML's own writers write them."""
    import seed_dist.models  # noqa: F401 - its guard

    import streaming  # isort: skip
    import webdataset

    (work / "webdataset").mkdir(exist_ok=True)
    columns = {target: f"ndarray:float16:{','.join(map(str, value.shape))}" for target, value in sample(0).items()}
    with (
        webdataset.ShardWriter(str(work / "webdataset/%06d.tar"), maxcount=samples // 8, verbose=0) as tars,
        streaming.MDSWriter(out=str(work / "streaming"), columns=columns, size_limit=1 << 27) as mds,
    ):
        for number in range(samples):
            arrays = sample(number)
            tars.write({"__key__": f"{number:08d}", **{f"{target}.npy": value for target, value in arrays.items()}})
            mds.write(arrays)
