"""The readers of tars, indices, manifests and lists of rejects on hostile bytes, driven by coverage (atheris).

  python -m tests.fuzz.readers CORPUS -max_total_time=600        any options of libFuzzer

pip install '.[fuzz]' installs atheris. Seeds are written to CORPUS, where inputs that reach new code are kept. An input
chooses a file by its first byte: a tar is the rest of it, as it is or with the checksums of its headers mended; the
other files are intact ones with bytes written over, removed and put in. Each reader must end, with an error of ours or
with all that was there: damage is never passed over.
"""

from __future__ import annotations

import io
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["seed_dist.data", "tarfile"]):
    import tarfile

    from seed_dist.data.index import Index
    from seed_dist.data.manifest import load_manifest
    from seed_dist.data.reject_list import read_reject_list, reject_list_problem
    from seed_dist.data.sharding import ShardOptions, shard_source
    from seed_dist.data.sources import list_source
    from seed_dist.data.tar_members import DamagedTarError, tar_members
from seed_dist.errors import DataError
from tests.pictures import fill

_BLOCK = tarfile.BLOCKSIZE
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


def check_tar(folder: Path, data: bytes) -> None:
    """Where no damage is reported, every header of a file outside of payloads is that of a member."""
    path = folder / "x.tar"
    path.write_bytes(data)
    try:
        members = list(tar_members(path))
    except DamagedTarError:
        members = None
    pairs = list(list_source(path).pairs())  # whatever state the tar is in
    assert members is not None or any(pair.problem and pair.problem[0] == "damaged_tar" for pair in pairs)
    if members is None:
        return
    payloads = {member.offset: member.size for member in members}
    at = 0
    while at + _BLOCK <= len(data):
        size = payloads.get(at + _BLOCK)
        if size is not None:
            at += _BLOCK + size + -size % _BLOCK
            continue
        assert not _is_file(data[at : at + _BLOCK]) or _follows_an_extension(data, at), f"lost: the file at byte {at}"
        at += _BLOCK


def with_checksums(data: bytes) -> bytes:
    """Every block that calls itself a header with the checksum that it must have: else few changes get further."""
    blocks = [bytearray(data[at : at + _BLOCK]) for at in range(0, len(data), _BLOCK)]
    for block in blocks:
        if block[257:262] == b"ustar" and len(block) == _BLOCK:
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


def _is_file(block: bytes) -> bool:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").type in _REGULAR
    except tarfile.HeaderError:
        return False


def _follows_an_extension(data: bytes, at: int) -> bool:
    """Whether bytes before belong to a long name or attributes, in whose payload anything may stand."""
    return any(
        data[block + 156 : block + 157] in (b"L", b"K", b"x", b"g", b"X", b"D", b"5") for block in range(0, at, _BLOCK)
    )


class Intact:
    """A small finished set, and what its files say."""

    def __init__(self, folder: Path) -> None:
        source = fill(folder / "source", 4)
        (source / "0003.png").write_bytes(b"no picture")
        self.folder = folder / "set"
        shard_source(source, self.folder, ShardOptions(2, 1.0, 1))
        self.manifest = load_manifest(self.folder)
        self.files = {name: (self.folder / name).read_bytes() for name in self.readers}
        self.values = {name: read() for name, read in self.readers.items()}

    @property
    def readers(self) -> dict[str, Callable[[], object]]:
        return {"index.parquet": self._index, "rejects.parquet": self._rejects, "manifest.json": self._manifest}

    def check(self, name: str, data: bytes) -> None:
        """The file with some bytes changed is refused, or says what it said."""
        (self.folder / name).write_bytes(edited(self.files[name], data))
        try:
            found = self.readers[name]()
        except DataError:
            return
        finally:
            (self.folder / name).write_bytes(self.files[name])
        assert found == self.values[name], f"{name} says something else, and nobody noticed"

    def _index(self) -> object:
        index = Index(self.folder, self.manifest)
        columns = (index.shard, index.offset, index.size, index.checksum)
        return [column.tolist() for column in columns], index.keys, index.exts, index.all_captions

    def _rejects(self) -> object:
        if problem := reject_list_problem(self.folder, self.manifest):
            raise DataError(problem)
        return list(read_reject_list(self.folder))

    def _manifest(self) -> object:
        return load_manifest(self.folder)


def edited(whole: bytes, edits: bytes) -> bytes:
    """`whole` with edits of five bytes: what to do, where (two bytes), with what, how often."""
    data = bytearray(whole)
    for number in range(0, len(edits) - 4, 5):
        what, high, low, value, count = edits[number : number + 5]
        at = ((high << 8) + low) % (len(data) + 1)
        if what % 3 == 0:
            data[at : at + 1] = bytes([value])
        elif what % 3 == 1:
            del data[at : at + count]
        else:
            data[at:at] = bytes([value]) * count
    return bytes(data)


def seeds(corpus: Path) -> None:
    """Tars of every form, and edits."""
    corpus.mkdir(parents=True, exist_ok=True)
    forms = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    kinds = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
    for number, (form, kind) in enumerate(itertools.product(forms, kinds)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            for name in ("a.jpg", "a.txt", "n" * 120 + ".png" if form != tarfile.USTAR_FORMAT else "b.png", "c.json"):
                info = tarfile.TarInfo(name)
                info.type, info.size = (kind, 0) if name == "a.txt" else (tarfile.REGTYPE, 20)
                tar.addfile(info, io.BytesIO(b'{"caption": "one"}  '))
        (corpus / f"tar-{number}").write_bytes(bytes([number % 2]) + buffer.getvalue()[: 14 * _BLOCK])
    for number in range(2, 5):
        (corpus / f"edits-{number}").write_bytes(bytes([number, 0, 0, 40, 7, 1]))


def main() -> None:
    corpus = Path(sys.argv[1])
    seeds(corpus)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        intact = Intact(folder)
        names = list(intact.readers)

        def one(data: bytes) -> None:
            kind = data[0] % (2 + len(names)) if data else 0
            if kind < 2:
                check_tar(folder, with_checksums(data[1:]) if kind else data[1:])
            else:
                intact.check(names[kind - 2], data[1:])

        atheris.Setup([sys.argv[0], str(corpus), "-max_len=16384", "-timeout=10", *sys.argv[2:]], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
