"""Foreign tars: every finding at its border, and what webdataset itself makes of the same files."""

import io
import subprocess
import sys
import tarfile

import pytest
import webdataset

from seed_dist.data.lint import MEANINGS, Report, lint_tar
from seed_dist.data.sharding import ShardOptions, shard_source
from tests.pictures import fill, picture

JPG = picture(0, "JPEG")
PAIR = [("a.jpg", JPG), ("a.txt", b"a caption")]


def pack(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content
                tar.addfile(member)
    return path


def findings(path, **options):
    report = Report()
    lint_tar(path, report, **options)
    return dict(report.counts)


CASES = {
    "damaged_tar": None,
    "unsafe_member": [*PAIR, ("b.jpg", (tarfile.SYMTYPE, "/etc/passwd"))],
    "pickle": [*PAIR, ("a.pkl", b"cos\nsystem\n")],
    "unknown_member": [*PAIR, ("a.cls", b"7")],
    "dot_in_key": [("v1.0.jpg", JPG), ("v1.0.txt", b"x")],
    "duplicate_name": [*PAIR, ("a.txt", b"again")],
    "not_adjacent": [("a.jpg", JPG), ("b.jpg", JPG), ("b.txt", b"b"), ("a.txt", b"a")],
    "missing_image": [*PAIR, ("b.txt", b"b")],
    "missing_caption": [*PAIR, ("b.jpg", JPG)],
    "malformed_json": [*PAIR, ("b.jpg", JPG), ("b.json", b"{")],
    "several_images": [*PAIR, ("a.png", picture(1))],
    "caption_not_utf8": [("a.jpg", JPG), ("a.txt", b"caf\xe9")],
    "empty_caption": [("a.jpg", JPG), ("a.txt", b" \n")],
    "empty_member": [("a.jpg", JPG), ("a.txt", b"")],
    "too_large": [("a.jpg", JPG), ("a.txt", b"x" * 65537)],
    "no_ending": [*PAIR, ("README", b"hello")],
    "hidden_member": [*PAIR, (".DS_Store.txt", b"mac")],
    "unreadable_image": [("a.jpg", JPG[:-20]), ("a.txt", b"x")],
}


def test_every_kind_of_finding_has_a_case():
    assert CASES.keys() == MEANINGS.keys()


@pytest.mark.parametrize("kind", CASES)
def test_each_finding(tmp_path, kind):
    path = pack(tmp_path / "x.tar", CASES[kind] or PAIR)
    if kind == "damaged_tar":
        path.write_bytes(path.read_bytes()[:1024])
    found = findings(path, decode=True)
    assert found.pop(kind) == (2 if kind == "dot_in_key" else 1)
    # The caption that comes again is a sample of its own to data_prep/shard.py, which has no picture.
    also = {"damaged_tar": {"missing_caption"}, "duplicate_name": {"missing_image"}, "unsafe_member": set()}
    assert found.keys() <= also.get(kind, set()), found


@pytest.mark.parametrize(
    ("members", "pairs"),
    [
        ([*PAIR, *PAIR], 2),  # a name that comes again is another sample
        ([("p.orig.jpg", JPG), ("p.txt", b"lent to webdataset's key")], 1),
        ([("q.jpg", JPG), ("q.json", b'{"width": 1}')], 0),
    ],
)
def test_pairs_are_those_that_are_sharded(tmp_path, members, pairs):
    (tmp_path / "source").mkdir()
    path, report = pack(tmp_path / "source" / "x.tar", [*members, ("z.jpg", JPG), ("z.txt", b"z")]), Report()
    lint_tar(path, report)
    made = shard_source(path, tmp_path / "out", ShardOptions(workers=1, max_reject_fraction=1.0)).manifest
    assert report.pairs == made.samples == pairs + 1


@pytest.mark.parametrize("kind", ["not_adjacent", "dot_in_key", "duplicate_name", "missing_caption"])
def test_webdataset_does_misread_what_is_reported(tmp_path, kind):
    """The reports about webdataset are true of the version installed."""
    path = pack(tmp_path / "x.tar", CASES[kind])
    read = webdataset.WebDataset(str(path), shardshuffle=False)
    if kind == "duplicate_name":
        with pytest.raises(ValueError, match="duplicate"):
            list(read)
    else:
        whole = [sample for sample in read if {"jpg", "txt"} <= sample.keys()]
        assert len(whole) < sum(name.endswith(".jpg") for name, _ in CASES[kind])


def test_our_own_shards_are_clean(tmp_path):
    shard_source(fill(tmp_path / "source", 9), tmp_path / "out", ShardOptions(shard_samples=5, workers=1))
    report = Report()
    for path in sorted((tmp_path / "out").glob("*.tar")):
        lint_tar(path, report, decode=True)
    assert not report.counts
    assert (report.tars, report.members, report.pairs) == (2, 18, 9)


def test_every_cut_of_a_tar_is_found(tmp_path):
    whole = pack(tmp_path / "x.tar", PAIR).read_bytes()
    end = whole.rstrip(b"\0")
    for size in range(0, len(end), 512):
        (tmp_path / "x.tar").write_bytes(whole[:size])
        assert findings(tmp_path / "x.tar")["damaged_tar"] == 1


def test_the_command_counts_and_names(root, tmp_path):
    def run(*arguments):
        command = [sys.executable, str(root / "data_prep" / "lint.py"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=root)

    (tmp_path / "good").mkdir()
    pack(tmp_path / "good" / "a.tar", PAIR)
    clean = run(tmp_path / "good")
    assert clean.returncode == 0, clean.stderr
    assert (
        clean.stdout
        == f"1 tars, 2 members, 1 pictures with a caption, {len(JPG)} bytes of pictures, the largest {len(JPG)}\n"
    )
    pack(tmp_path / "good" / "b.tar", CASES["not_adjacent"])
    pack(tmp_path / "c.tar", [(f"{i}.jpg", JPG) for i in range(5)])
    found = run(tmp_path / "good", tmp_path / "c.tar")
    assert found.returncode == 3
    lines = found.stdout.splitlines()
    assert lines[1].split()[:2] == ["missing_caption", "5"]
    assert lines[2].strip() == "c.tar/0, c.tar/1, c.tar/2, ..."
    assert lines[4].strip() == "b.tar/a.txt"
    assert "6 findings in 3 tars" in found.stderr
    assert run(tmp_path / "none").returncode == 3
