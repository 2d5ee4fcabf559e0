"""Foreign tars: keys are repaired, captions found, damage and danger named; nothing vanishes, nothing is unpacked."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seed_dist.data.reader import ImageShards
from seed_dist.data.sharding import ShardOptions, shard_source
from seed_dist.data.sources import list_source
from tests.pictures import picture

ALL = ShardOptions(workers=1, max_reject_fraction=1.0)


def pack(path, members):
    """A tar of (name or TarInfo, bytes)."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def kinds(path):
    return {pair.name: pair.problem and pair.problem[0] for pair in list_source(path).pairs()}


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_img2datasets_output_with_its_failures(tmp_path):
    rows = [{"caption": f"c{i}", "url": f"http://x/{i}", "key": f"{i:09d}", "status": "success"} for i in range(3)]
    members = [
        (f"{row['key']}.{ext}", data)
        for i, row in enumerate(rows)
        for ext, data in (
            ("jpg", picture(i, "JPEG")),
            ("json", json.dumps(row).encode()),
            ("txt", row["caption"].encode()),
        )
    ]
    pack(tmp_path / "00000.tar", members)
    failed = {"caption": "f", "url": "http://x/9", "key": "000000009", "status": "failed_to_download"}
    table = [{**row, "error_message": None} for row in rows] + [{**failed, "error_message": "HTTP Error 404"}]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    manifest = shard_source(tmp_path, tmp_path / "out", ShardOptions(workers=1, max_reject_fraction=0)).manifest
    assert ImageShards(tmp_path / "out").captions == ["c0", "c1", "c2"]
    assert ImageShards(tmp_path / "out").image_bytes(2) == picture(2, "JPEG")
    assert manifest.details["filtered"] == {"not_downloaded": 1}
    row = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()[0]
    assert row["source"] == "00000.parquet/000000009"
    assert row["detail"] == "failed_to_download: HTTP Error 404 http://x/9"


def test_keys_are_repaired(tmp_path):
    """Dots and folders in keys, members apart from one another, a key twice, text under webdataset's key."""
    p = [picture(i) for i in range(6)]
    members = [
        ("a/x.1.png", p[0]), ("a/x.2.png", p[1]), ("b/x.png", p[2]), ("a/x.2.txt", b"dot two"), ("b/x.txt", b"first"),
        ("a/x.1.txt", b"dot one"), ("b/x.png", p[3]), ("b/x.txt", b"second"), ("k.input.png", p[4]), ("k.txt", b"lent"),
        ("j.png", p[5]), ("j.json", b'{"caption": "from json"}'),
    ]  # fmt: skip
    pack(tmp_path / "t.tar", members)
    manifest = shard_source(tmp_path / "t.tar", tmp_path / "out", ShardOptions(workers=1)).manifest
    shards = ImageShards(tmp_path / "out")
    assert shards.captions == ["dot one", "dot two", "first", "second", "lent", "from json"]
    assert [shards.image_bytes(i) for i in range(6)] == p
    assert manifest.details["rejected"] == {}


def test_dangerous_and_unknown_members_are_named_and_stay_closed(tmp_path):
    good = [
        ("ok.png", picture(0)),
        ("ok.txt", b"fine"),
        ("ok.pkl", b"cos\nsystem\n"),
        ("ok.pyd", b"x"),
        ("ok.pt", b"x"),
    ]
    bad = [
        ("../up.png", picture(1)), ("/abs.png", picture(1)), ("d/../../e.txt", b"x"),
        (special("link.png", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (special("hard.png", tarfile.LNKTYPE, "ok.png"), b""),
        (special("dev.png", tarfile.CHRTYPE), b""), (special("pipe.txt", tarfile.FIFOTYPE), b""),
    ]  # fmt: skip
    pack(tmp_path / "t.tar", [*good, *bad])
    found = kinds(tmp_path / "t.tar")
    assert found.pop("t.tar/ok") is None
    unknown = {f"t.tar/ok.{ext}" for ext in ("pkl", "pyd", "pt")}
    assert {name for name, kind in found.items() if kind == "unknown_member"} == unknown
    assert {name for name, kind in found.items() if kind == "unsafe_member"} == {
        "t.tar/../up.png", "t.tar//abs.png", "t.tar/d/../../e.txt", "t.tar/link.png", "t.tar/hard.png", "t.tar/dev.png",
        "t.tar/pipe.txt",
    }  # fmt: skip
    manifest = shard_source(tmp_path / "t.tar", tmp_path / "out", ALL).manifest
    assert manifest.samples == 1
    assert manifest.details["rejected"] == {"unsafe_member": 7}
    assert manifest.details["filtered"] == {"unknown_member": 3}


def leads_back():
    """A header, with a right checksum, whose negative size puts the next header where this one is: an endless loop."""
    info = tarfile.TarInfo("a.png")
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + bytes(10240)


def damaged(data):
    """Ways in which a tar may be broken, tarfile being content with most of them."""
    yield "cut in a payload", data[:4700]
    yield "cut between members", data[:4096]
    yield "a header overwritten", data[:3072] + b"x" * 512 + data[3584:]
    yield "two joined", data + data
    yield "leads back", data[:1536] + leads_back()
    yield "no tar", b"<html>" * 1000
    yield "empty", b""
    yield "compressed", b"\x1f\x8b\x08" + bytes(600)


def test_damage_is_never_passed_over(tmp_path):
    payload = b"x" * 900
    path = pack(tmp_path / "t.tar", [(f"{i}.png", payload) for i in range(4)])
    whole = path.read_bytes()
    assert set(kinds(path).values()) == {"missing_caption"}
    for what, data in damaged(whole):
        path.write_bytes(data)
        assert "damaged_tar" in kinds(path).values(), what


def test_endless_headers_are_refused(tmp_path):
    """A member whose name, or whose attributes, would take more memory than any name needs."""
    info = tarfile.TarInfo("long")
    info.type = tarfile.GNUTYPE_LONGNAME
    path = pack(tmp_path / "t.tar", [(info, b"n" * (1 << 21)), ("a.png", picture(0))])
    assert kinds(path) == {"t.tar": "damaged_tar"}


@pytest.mark.parametrize(
    ("text", "kind"), [(b"{", "malformed_json"), (b"[1]", "missing_caption"), (b"[" * 100_000, "malformed_json")]
)
def test_json_that_gives_no_caption(tmp_path, text, kind):
    path = pack(tmp_path / "t.tar", [("a.png", picture(0)), ("a.json", text)])
    assert kinds(path) == {"t.tar/a": kind}
