"""The data card says what is in a set, from the set itself; the command writes it, and it is part of the set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from seed_dist.data.card import data_card
from seed_dist.data.manifest import load_manifest
from seed_dist.data.verification import verify
from tests.pictures import fill, picture


def test_the_card_of_a_set_counts_what_is_there_and_what_is_not(root: Path, tmp_path: Path) -> None:
    source = fill(tmp_path / "so_urce", 30)
    (source / "0000.txt").write_text("<b>bold</b> [click](http://x.org) | cell")
    (source / "0002.txt").write_text("caption number 1")
    (source / "0003.txt").write_text("")
    (source / "0004.jpg").write_bytes(picture(0, "JPEG", (300, 200)))
    (source / "0005.png").write_bytes((source / "0007.png").read_bytes())
    command = [sys.executable, str(root / "data_prep" / "shard.py"), str(source), str(tmp_path / "set")]
    done = subprocess.run(
        [*command, "--shard-samples", "40", "--max-reject-fraction", "0.1", "--max-caption-words", "7"],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(root)},
    )  # fmt: skip
    folder = tmp_path / "set"
    assert str(folder / "README.md") in done.stdout
    card = (folder / "README.md").read_text()
    assert card == data_card(folder)
    for line in (
        "| pictures | 29 |",
        "| captions | 29, 28 of them different |",
        "| pictures whose file (by size and CRC-32) came before | 1 |",
        f"| fingerprint | {load_manifest(folder).fingerprint} |",
        r"| named | so\_urce |",
        "| pairs in the source | 30 |",
        r"| empty\_caption | 1 | 3.33% | damage |",
        r"| max\_caption\_words | 7 |",
        "| shorter side in pixels | 10 | 10 | 10 | 10 | 200 |",
        "Not recorded",
    ):
        assert line in card, line
    assert "<b>" not in card
    assert "http://" not in card
    assert verify(folder, progress=lambda _: None) == []
    again = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(root)})
    assert again.returncode != 0  # other options: the card of the set that stands is left alone
    assert (folder / "README.md").read_text() == card
