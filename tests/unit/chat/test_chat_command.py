"""python -m seed_dist.chat as scripts use it: lines in, lines and exit codes out."""

import io
import json
import re
import shutil
import sys

import pytest
from PIL import Image

from seed_dist.chat.__main__ import main
from seed_dist.cli import run_command
from seed_dist.models.merged_language import save_merged
from tests.pictures import picture
from tests.unit.chat.tiny_models import CODES, QUERIES


@pytest.fixture
def chat(work, monkeypatch, capsys, tmp_path):
    """Lines typed -> (exit code, standard output, standard error), run in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.png").write_bytes(picture(1))

    def run(text, *arguments, llm=work / "lora" / "export"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        monkeypatch.setattr(sys, "argv", ["chat", "--llm", str(llm), "--steps", "1", *map(str, arguments)])
        code = run_command(main)
        return code, *capsys.readouterr()

    return run


def test_a_script_shows_asks_paints_edits_and_saves(chat, engine, tmp_path):
    text = (
        "/image a b.png\n/ask a red star\n\n/paint a blue moon\n/codes\n/edit 1=5 2=7\n/repaint 3\n/save\n/quit\nnever"
    )
    code, out, err = chat(text, "--run", "runs")
    assert code == 0, err
    lines = out.splitlines()
    shown = engine.tokenizer.encode(Image.open(tmp_path / "a b.png"))[0].tolist()
    assert lines[0] == f"[picture 1] {' '.join(map(str, shown))}"
    rows = [line for line in lines if line.startswith("[picture 2] ")]
    codes = [[int(word) for word in line.split()[2:]] for line in rows]
    assert codes[1:] == [[5, 7, *codes[0][2:]]] * 2
    assert [int(code) for code in re.findall(r"=(\d+)", out)] == codes[0]
    (folder,) = (tmp_path / "runs").iterdir()
    assert lines[-1] == f"saved: {folder.relative_to(tmp_path)}"
    assert Image.open(folder / "picture-02-painted.png").tobytes() == engine.paint(codes[1], 3).tobytes()
    saved = json.loads((folder / "conversation.json").read_text())
    assert [turn["asked"] for turn in saved["turns"]] == [
        [{"picture": 1}, {"text": "a red star"}],
        [{"text": "a blue moon"}],
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b.png", "runs"]


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("/image none.png", 3, "none.png cannot be read"),
        ("/image conftest.py", 3, "conftest.py cannot be read"),
        ("/edit 1=1", 3, "there is no picture 1; none exists yet"),
        ("/image a b.png\n/edit 0=1", 2, f"/edit '0=1' must be I=CODE with I from 1 to {QUERIES}"),
        (f"/image a b.png\n/edit 2={CODES}", 2, f"code 2 is {CODES}; 0 to {CODES - 1} are allowed"),
        ("/image a b.png\n/edit", 2, "/edit '' must be I=CODE"),
        ("/codes x", 2, "'x' is no whole number"),
        ("/sing", 2, "/sing is no command; there are /image, /paint"),
        ("/paint", 2, "the turn is empty"),
    ],
)
def test_the_first_line_that_cannot_be_obeyed_ends_a_script(chat, tmp_path, text, code, message):
    found, _, err = chat(f"{text}\n/save\n", "--run", "runs")
    assert (found, message in err) == (code, True), err
    assert not (tmp_path / "runs").exists()


def test_a_person_is_told_and_goes_on(start):
    from seed_dist.chat.manner import Manner
    from seed_dist.chat.terminal import Terminal

    lines = list(Terminal(start, Manner()).run(["/sing", "/help", "/quit", "/new"], stop_at_error=False))
    assert lines[0].startswith("error: 1 configuration problem(s)")
    assert lines[1].startswith("Write a line")
    assert len(lines) == 2


def test_what_is_missing_is_named_with_the_command_that_makes_it(chat, work, tmp_path):
    code, _, err = chat("", llm=tmp_path / "w" / "lora" / "export")
    assert code == 3
    assert f"python -m seed_dist.train --recipe NAME --work {tmp_path / 'w'} --stage lora" in err
    shutil.copytree(work / "lora", tmp_path / "w" / "lora")
    code, _, err = chat("", llm=tmp_path / "w" / "lora" / "export")
    assert (code, "--stage codebook" in err) == (3, True)
    shutil.move(tmp_path / "w" / "lora" / "export", tmp_path / "elsewhere")
    code, _, err = chat("", llm=tmp_path / "elsewhere")
    assert (code, "give --tokenizer too: the export of stage codebook" in err) == (2, True)
    options = ("--tokenizer", work / "codebook" / "export", "--backbone", f"painter={tmp_path / 'nowhere'}")
    code, out, err = chat("/image a b.png\n/ask a\n/repaint\n", *options, llm=tmp_path / "elsewhere")
    assert (code, len(out.splitlines()) >= 2) == (2, True)
    assert "nowhere" in err
    assert "needed to paint" in err


def unplaced(lines):
    """Without the folders of the pictures, which are new each time."""
    return re.sub(r"(?m)^painted: .*/", "painted: ", lines)


def test_a_merged_model_says_what_its_adapter_says(chat, work, tmp_path):
    save_merged(work / "lora" / "export", tmp_path / "merged")
    text = "/image a b.png\n/ask a red star\n\n/paint a blue moon\n/repaint 3\na moon\n"
    drawn = ("--temperature", "1.5", "--seed", "2", "--remember", "2")
    for options in ((), drawn):
        code, said, err = chat(text, *options)
        assert code == 0, err
        assert len(said.splitlines()) >= 5
        tokenizer = ("--tokenizer", work / "codebook" / "export")
        code, merged, err = chat(text, *tokenizer, *options, llm=tmp_path / "merged")
        assert code == 0, err
        assert unplaced(merged) == unplaced(said)
    code, out, err = chat(text, llm=tmp_path / "merged")
    assert (code, out) == (2, "")
    assert "give --tokenizer too: the export of stage codebook whose codes it was trained on" in err
    code, _, err = chat("", *tokenizer, "--backbone", "language_model=x", llm=tmp_path / "merged")
    assert (code, "has its base within; leave it away" in err) == (2, True)
    code, _, err = chat("", *tokenizer, llm=tmp_path / "a b.png")
    assert (code, "a b.png is a file" in err) == (3, True)
    code, _, err = chat("", *tokenizer, llm=work / "codebook" / "export")
    assert (code, "holds a seed_tokenizer, which is no language model" in err) == (3, True)


def test_wrong_options_are_named_all_at_once(chat):
    wrong = "--port 3 --max-tokens 0 --guidance nan --temperature -1 --top-p 0 --backbone x=y --seed 2147483648"
    code, out, err = chat("", *wrong.split(), "--run", "a b.png")
    assert (code, out) == (2, "")
    assert err.startswith("error: 8 configuration problem(s)")
    for option in ("--run", "--port", "--max-tokens", "--guidance", "--temperature", "--top-p", "--backbone", "--seed"):
        assert f"- {option} " in err
