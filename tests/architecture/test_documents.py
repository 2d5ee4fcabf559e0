"""What the documents promise exists: links, files, commands and their options."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT, help_of, project_files

DOCUMENTS = [path for path in project_files() if path.suffix == ".md"]
README = ROOT / "README.md"
# Written by the commands, or the user's own.
NOT_IN_THE_CHECKOUT = ("runs/", "WORK/", "http", "-", "path/", "SOURCE", "OUT")


def links(text: str) -> list[str]:
    """Targets of relative links and pictures, without their anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    flat = [a or b for a, b in targets]
    return [target.partition("#")[0] for target in flat if not re.match(r"[a-z]+:|#", target)]


def commands(text: str) -> list[list[str]]:
    """The words of every command in fenced shell blocks: continued lines joined, comments and variables set aside."""
    blocks = re.findall(r"```(?:bash|sh|shell|console)\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [rest for line in words if (rest := _without_assignments(line))]


def _without_assignments(words: list[str]) -> list[str]:
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def documented_commands() -> list[list[str]]:
    return [words for path in DOCUMENTS for words in commands(path.read_text())]


def python_targets() -> dict[str, set[str]]:
    """`-m module` or script path of every documented Python command -> the options that the documents use with it."""
    targets: dict[str, set[str]] = {}
    for words in documented_commands():
        if not re.search(r"(^|/)(python3?|torchrun|srun)$", words[0]):
            continue
        at = words.index("-m") + 1 if "-m" in words else _first(words, r".+\.py$")
        if at is not None and words[at] not in ("pip", "venv", "pytest"):
            options = {word.partition("=")[0] for word in words[at + 1 :] if word.startswith("--")}
            targets.setdefault(words[at], set()).update(options)
    return targets


def _first(words: list[str], pattern: str) -> int | None:
    return next((i for i, word in enumerate(words) if re.match(pattern, word)), None)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    assert [target for target in links(path.read_text()) if target and not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_anchors_name_a_heading(path: Path) -> None:
    lost = []
    for target, anchor in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", path.read_text()):
        headings = re.findall(r"^#+ (.+)$", ((path.parent / target) if target else path).read_text(), re.MULTILINE)
        if anchor not in map(anchor_of, headings):
            lost.append(f"{target}#{anchor}")
    assert lost == []


def anchor_of(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_the_readme_shows_the_two_commands() -> None:
    shown = [" ".join(words) for words in commands(README.read_text())]
    assert {"make demo", "make test"} <= set(shown)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {word for words in documented_commands() if words[0] == "make" for word in words[1:] if "=" not in word}
    assert named
    assert [name for name in named if not re.search(rf"^{re.escape(name)}:", makefile, re.MULTILINE)] == []


def test_scripts_exist() -> None:
    named = {word for words in documented_commands() for word in words if re.search(r"\.(py|sbatch|sh)$", word)}
    own = {name for name in named if not name.startswith(NOT_IN_THE_CHECKOUT)}
    assert {"slurm/tokenizer.sbatch", "data_prep/shard.py"} <= own, "the README must show these"
    assert [name for name in own if not (ROOT / name).is_file()] == []


def test_modules_and_options_exist() -> None:
    targets = python_targets()
    assert {"seed_dist.eval", "data_prep/shard.py"} <= targets.keys(), "the README must show these"
    for target, options in targets.items():
        assert target.endswith(".py") or importlib.util.find_spec(target), f"there is no module {target}"
        missing = [option for option in options if option not in help_of(target)]
        assert missing == [], f"{target} has no option {missing}"


@pytest.mark.parametrize(
    "target",
    [
        "data_prep/shard.py",
        "data_prep/encode.py",
        "data_prep/verify.py",
        "data_prep/lint.py",
        "data_prep/preview.py",
        "seed_dist.train",
        "seed_dist.eval",
        "seed_dist.demo",
        "seed_dist.studies",
        "seed_dist.studies.pixels",
        "seed_dist.convert",
        "seed_dist.assets",
        "seed_dist.tokenize",
        "seed_dist.chat",
        "seed_dist.plan",
        "seed_dist.prove_resume",
        "seed_dist.drill",
        "seed_dist.watch",
        "seed_dist.status",
        "seed_dist.compare",
        "seed_dist.doctor",
        "seed_dist.sync",
        "launchers/submit.py",
    ],
)
def test_help_comes_at_once(target: str) -> None:
    """--help and wrong options are answered without loading torch."""
    told = help_of(target)
    assert "usage:" in told
    assert told.splitlines()[-1] == "torch not loaded code 0"


def test_the_file_map_matches_the_tree() -> None:
    """Lines of the README's file map begin with a path; and no folder of the package is missing from it."""
    text = README.read_text()
    section = re.search(r"^## File map\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, "the README has a section `## File map`"
    paths = re.findall(r"^\s*[-|*]?\s*`([\w./-]+)`", section[1], re.MULTILINE)
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []
    folders = {f"seed_dist/{path.parent.name}/" for path in (ROOT / "seed_dist").glob("*/__init__.py")}
    assert folders - set(paths) == set()


def test_comments_name_documents_that_exist() -> None:
    """A source that refers the reader to a text must not refer to one that only its author has. What commands write
    stands in docs/files.md.
    """
    existing = {path.name for path in DOCUMENTS}
    existing |= set(re.findall(r"\bWORK/([\w-]+\.md)\b", (ROOT / "docs" / "files.md").read_text()))
    named = {
        (path.name, name)
        for path in project_files()
        if path.suffix in (".py", ".sh", ".sbatch", ".yaml", ".toml") and ROOT / "tests" not in path.parents
        for name in re.findall(r"\b[\w-]+\.md\b", path.read_text())
    }
    assert named
    assert sorted((source, name) for source, name in named if name not in existing) == []


def test_the_rules_see() -> None:
    assert anchor_of("Prove it, before `you` queue!") == "prove-it-before-you-queue"
    assert links('[a](b.md#c) ![d](e.png) [f](https://g) [h](#i) <img src="j.png">') == ["b.md", "e.png", "j.png"]
    assert commands("```bash\nA=1 make test  # why\npython -m a \\\n  --b\n```\n```\nno\n```") == [
        ["make", "test"],
        ["python", "-m", "a", "--b"],
    ]
