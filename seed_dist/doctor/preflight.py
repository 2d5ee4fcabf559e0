"""Measures the nodes of an allocation, one process per rank, in less than two minutes: who is slow is named."""

from __future__ import annotations

import os
import secrets
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seed_dist.dist.comm import Comm
from seed_dist.dist.pairs import pair_bandwidth
from seed_dist.doctor.finding import Finding
from seed_dist.doctor.outliers import Odd, exclude_option, odd_ones
from seed_dist.faults import fault_point
from seed_dist.fsio import PARTIAL_SUFFIX

_MATMUL_S, _REDUCE_REPEATS, _PAIR_ROUNDS = 3.0, 5, 15
_GPU_SIDE, _CPU_SIDE = 8192, 512
_GPU_BYTES, _CPU_BYTES = 64 << 20, 4 << 20
_READ_BYTES, _BLOCK_BYTES = 64 << 20, 4 << 20
_FEWEST, _MOST = 3, 200  # matrix products


def measure(comm: Comm, work: Path) -> dict[str, Any]:
    """All ranks together; the same on each: hosts, the values of all ranks by quantity, and the all-reduce's rate.

    The disk's rate is that of a file that this rank writes in `work` and reads again past its own cache; a file server
    may still have it in memory.
    """
    on_gpu = comm.device.type == "cuda"
    size_bytes = _GPU_BYTES if on_gpu else _CPU_BYTES
    own = {
        "matmul_flops": _matmul_flops(comm),
        "pair_bytes_s": pair_bandwidth(comm, size_bytes, _PAIR_ROUNDS),
        "disk_bytes_s": _disk_bytes_s(work),
    }
    reduced = _all_reduce_bytes_s(comm, size_bytes)
    comm.barrier()  # all come out of it within milliseconds
    own["clock_s"] = time.time()
    everybody = comm.gather_objects((socket.gethostname(), own))
    quantities = {name: [values[name] for _, values in everybody] for name in own}
    return {"hosts": [host for host, _ in everybody], "ranks": quantities, "all_reduce_bus_bytes_s": reduced}


def findings(measured: dict[str, Any]) -> tuple[list[Finding], str]:
    """What is to be said of it, and the option that leaves the odd nodes out."""
    hosts, ranks = measured["hosts"], measured["ranks"]
    odd = odd_ones(hosts, ranks)
    clocks = ranks["clock_s"]
    told = [
        Finding("ranks", "ok", f"{len(hosts)} on {len(set(hosts))} node(s)"),
        Finding("matrix product", "ok", _spread(ranks["matmul_flops"], 1e12, "TFLOP/s")),
        Finding("pairs of ranks", "ok", _spread(ranks["pair_bytes_s"], 1e9, "GB/s")),
        Finding("all-reduce", "ok", f"{(measured['all_reduce_bus_bytes_s'] or 0) / 1e9:.3g} GB/s on the bus"),
        Finding("disk read", "ok", _spread(ranks["disk_bytes_s"], 1e9, "GB/s")),
        Finding("clocks", "ok", f"{max(clocks) - min(clocks):.3f} s apart"),
    ]
    exclude = exclude_option(odd)
    return told + [_odd_finding(one, exclude) for one in odd], exclude


def _odd_finding(odd: Odd, exclude: str) -> Finding:
    return Finding(
        f"rank {odd.rank}", "failed", f"on {odd.host}: {odd.what}", f"sbatch {exclude} slurm/tokenizer.sbatch"
    )


def _spread(values: list[float | None], unit: float, name: str) -> str:
    known = [value / unit for value in values if value is not None]
    if not known:
        return "one rank alone: not measured"
    return f"{min(known):.3g} to {max(known):.3g} {name}, median {statistics.median(known):.3g}"


def _matmul_flops(comm: Comm) -> float:
    """Of square matrices: fp16 on a GPU, fp32 on a CPU; the median of as many products as three seconds hold."""
    on_gpu = comm.device.type == "cuda"
    side, dtype = (_GPU_SIDE, torch.float16) if on_gpu else (_CPU_SIDE, torch.float32)
    left, right = (torch.ones((side, side), dtype=dtype, device=comm.device) for _ in range(2))

    def multiply() -> None:
        fault_point("preflight.matmul", comm.rank, 0)
        torch.mm(left, right)
        if on_gpu:
            torch.cuda.synchronize()

    multiply()  # chooses kernels
    took_s: list[float] = []
    began_s = time.perf_counter()
    while len(took_s) < _FEWEST or (time.perf_counter() - began_s < _MATMUL_S and len(took_s) < _MOST):
        took_s.append(_timed(multiply))
    return 2 * side**3 / statistics.median(took_s)


def _all_reduce_bytes_s(comm: Comm, size_bytes: int) -> float | None:
    """Bus bandwidth as NCCL's tests define it: 2 (n - 1) / n times the bytes, by the time."""
    if comm.size == 1:
        return None
    tensor = torch.zeros(size_bytes // 4, device=comm.device)

    def reduce() -> None:
        comm.sum(tensor)
        if tensor.is_cuda:
            torch.cuda.synchronize()

    reduce()  # connects
    took_s = statistics.median([_timed(reduce) for _ in range(_REDUCE_REPEATS)])
    return 2 * (comm.size - 1) / comm.size * size_bytes / took_s


def _disk_bytes_s(work: Path) -> float:
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"preflight.{secrets.token_hex(4)}{PARTIAL_SUFFIX}"
    try:
        with path.open("wb") as file:
            for _ in range(_READ_BYTES // _BLOCK_BYTES):
                file.write(os.urandom(_BLOCK_BYTES))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return _READ_BYTES / _timed(lambda: _read(path))
    finally:
        path.unlink(missing_ok=True)


def _read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(_BLOCK_BYTES):
            pass


def _timed(action: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    action()
    return time.perf_counter() - began_s
