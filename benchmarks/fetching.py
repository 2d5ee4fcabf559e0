"""Pictures from a local HTTP server to shards of smaller pictures: ours, img2dataset.

  python -m benchmarks.fetching --img2dataset path/to/its/bin/img2dataset

img2dataset is a command of an environment of its own; docs/benchmarks.md says how it is installed.

Both fetch the same JPEGs of 640 x 480 from one server, which has them in memory and is a process of its own, shrink
the shorter side to 256 by the average over the area, and store JPEG of quality 95 in tars of 1,000; each in one process
with as many threads that fetch. Ours is data_prep/shard.py with --resize shorter --resample area (and once more with
its usual bicubic), with checksums and flush to disk. Theirs is resize_mode keep_ratio with its usual interpolation;
hashes and EXIF are switched off. Each runs with a few pictures, too: the difference is what the others cost, without
the start of the program.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.hardware import keep, load
from benchmarks.rounds import interleaved, medians, times_faster

FEW, SIDE_PX, SHARD_PAIRS = 200, 256, 1000
DISTINCT = 100  # pictures; further URLs give them again


def picture(seed: int) -> bytes:
    """A JPEG of 640 x 480 with large and small structure, 60 to 90 KB, as a photograph has."""
    generator = np.random.default_rng(seed)
    image = np.zeros((480, 640, 3), np.float32)
    for cells, weight in ((4, 90), (16, 50), (80, 25), (320, 12)):
        noise = generator.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        grown = Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC)
        image += weight * (np.asarray(grown, np.float32) / 128 - 1)
    buffer = io.BytesIO()
    Image.fromarray((image + 128).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Server(asyncio.Protocol):
    """HTTP/1.1 from memory, with connections kept open for those who want it."""

    pictures: tuple[bytes, ...] = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._asked = transport, b""

    def data_received(self, data: bytes) -> None:
        self._asked += data
        while (end := self._asked.find(b"\r\n\r\n")) >= 0:
            head, self._asked = self._asked[:end].lower(), self._asked[end + 4 :]
            body = self.pictures[int(head.split(b" ")[1].strip(b"/").partition(b".")[0]) % DISTINCT]
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            self._transport.write(body)
            if b"connection: close" in head:
                self._transport.close()


def serve(port: Connection) -> None:
    """In a process of its own: tell the port, then answer for ever."""
    Server.pictures = tuple(picture(seed) for seed in range(DISTINCT))

    async def answer() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(answer())


def table(path: Path, port: int, count: int) -> Path:
    urls = [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(count)]
    captions = [f"a caption of picture {number}" for number in range(count)]
    pq.write_table(pa.table({"url": urls, "caption": captions}), path)
    return path


def ours(urls: Path, out: Path, threads: int, resample: str) -> list[str]:
    script = Path(__file__).parents[1] / "data_prep" / "shard.py"
    return [
        sys.executable, str(script), str(urls), str(out), "--fetch", "--fetches", str(threads), "--workers", "1",
        "--resize", "shorter", "--size-px", str(SIDE_PX), "--resample", resample, "--format", "jpg", "--quality", "95",
        "--shard-samples", str(SHARD_PAIRS),
    ]  # fmt: skip


def theirs(program: Path, urls: Path, out: Path, threads: int) -> list[str]:
    return [
        str(program), "--url_list", str(urls), "--input_format", "parquet", "--url_col", "url", "--caption_col",
        "caption", "--output_format", "webdataset", "--output_folder", str(out), "--processes_count", "1",
        "--thread_count", str(threads), "--image_size", str(SIDE_PX), "--resize_mode", "keep_ratio",
        "--encode_quality", "95", "--number_sample_per_shard", str(SHARD_PAIRS), "--compute_hash", "None",
        "--extract_exif", "False", "--enable_wandb", "False",
    ]  # fmt: skip


def run(command: list[str]) -> float:
    """Processor seconds of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONPATH": str(Path.cwd())}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def stored(folder: Path) -> list[Image.Image]:
    """All pictures of a folder of tars, by their keys."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    file = tar.extractfile(member)
                    assert file is not None
                    found[member.name] = Image.open(io.BytesIO(file.read())).convert("RGB")
    return [found[name] for name in sorted(found)]


def check(ours_folder: Path, their_folder: Path) -> float:
    """Both hold the same pictures; the value is their mean difference in steps of 255."""
    ours_stored, theirs_stored = stored(ours_folder), stored(their_folder)
    assert len(ours_stored) == len(theirs_stored) == FEW
    gaps = []
    for mine, other in zip(ours_stored, theirs_stored, strict=True):
        assert min(mine.size) == min(other.size) == SIDE_PX
        assert abs(mine.width - other.width) <= 1
        other = other.resize(mine.size)
        gaps.append(np.abs(np.asarray(mine, np.int16) - np.asarray(other, np.int16)).mean())
    assert max(gaps) < 12, "these are not the same pictures"
    return float(np.mean(gaps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--img2dataset", type=Path, required=True, metavar="PROGRAM", help="its command")
    parser.add_argument("--pictures", type=int, default=3000, help="beyond the first few (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=16, help="that fetch, of either (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write, for example on a tmpfs (default: the system's)")
    args = parser.parse_args()
    if not args.img2dataset.is_file():
        sys.exit(f"--img2dataset {args.img2dataset} is no file; docs/benchmarks.md says how it is installed")
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    port = here.recv()
    load_before = load()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        tables = {count: table(Path(scratch, f"{count}.parquet"), port, count) for count in (FEW, FEW + args.pictures)}
        commands: dict[str, Callable[[Path, Path], list[str]]] = {
            "ours": lambda urls, out: ours(urls, out, args.threads, "area"),
            "ours_bicubic": lambda urls, out: ours(urls, out, args.threads, "bicubic"),
            "img2dataset": lambda urls, out: theirs(args.img2dataset, urls, out, args.threads),
        }
        folders = {name: Path(scratch, name) for name in commands}
        for name, command in commands.items():
            run(command(tables[FEW], folders[name]))
        gap = check(folders["ours"], folders["img2dataset"])
        wall: dict[str, list[float]] = {name: [] for name in commands}
        processor: dict[str, list[float]] = {name: [] for name in commands}

        def clear() -> None:
            for folder in folders.values():
                shutil.rmtree(folder, ignore_errors=True)

        def arm(name: str) -> Callable[[], None]:
            def measure() -> None:
                taken = []
                for urls in tables.values():
                    clear()
                    started = time.perf_counter()
                    used = run(commands[name](urls, folders[name]))
                    taken.append((time.perf_counter() - started, used))
                wall[name].append(taken[1][0] - taken[0][0])
                processor[name].append(taken[1][1] - taken[0][1])

            return measure

        interleaved({name: arm(name) for name in commands}, args.rounds)
    server.kill()
    wall, processor = ({name: values[1:] for name, values in table.items()} for table in (wall, processor))
    keep(
        "fetching",
        {
            "work": f"{args.pictures} JPEGs of 640 x 480, shorter side to {SIDE_PX}, quality 95, one process, "
            f"{args.threads} threads that fetch",
            "resize": "ours: Pillow's BOX (area) or BICUBIC with antialiasing; img2dataset: keep_ratio, INTER_AREA",
            "mean_difference_of_pixels": round(gap, 2),
            "load_average_before": load_before,
            "rounds": args.rounds,
            "pictures_per_second": {name: round(args.pictures / value, 1) for name, value in medians(wall).items()},
            "pictures_per_processor_second": {
                name: round(args.pictures / value, 1) for name, value in medians(processor).items()
            },
            **{
                f"{name}_against_img2dataset": times_faster(wall, name, "img2dataset")
                for name in folders
                if name.startswith("ours")
            },
            **{
                f"{name}_against_img2dataset_processor_time": times_faster(processor, name, "img2dataset")
                for name in folders
                if name.startswith("ours")
            },
            "peers": _versions(args.img2dataset),
        },
        ["pillow", "urllib3"],
    )


def _versions(program: Path) -> dict[str, str]:
    """Of the packages in the other environment that do its work."""
    names = ("img2dataset", "albumentations", "opencv-python-headless", "opencv-python", "webdataset")
    script = (
        "import importlib.metadata as m, json; have = {d.metadata['Name']: d.version for d in m.distributions()}; "
        f"print(json.dumps({{n: have[n] for n in {names!r} if n in have}}))"
    )
    python = program.with_name("python")
    found: dict[str, str] = json.loads(subprocess.run([python, "-c", script], check=True, capture_output=True).stdout)
    return found


if __name__ == "__main__":
    main()
