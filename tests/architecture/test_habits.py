"""Habits that reviews would otherwise repeat: output, errors, environment, names."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

import pytest

from tests.architecture.sources import Source, imports, project_files, sources

# Commands speak on standard output; everything else returns values, raises or logs.
# (What the training of the frozen backbones prints is the log that ships with their weights.)
MAY_PRINT = ("seed_dist/cli.py", "seed_dist/demo", "seed_dist/glyphs/pretrain/", "data_prep/", "launchers/")
# The environment comes in here and is passed on as arguments. (Demo and proofs hand it to what they start.)
MAY_READ_ENVIRONMENT = (
    "seed_dist/topology.py",
    "seed_dist/faults.py",
    "seed_dist/assets/location.py",
    "seed_dist/obs/",
    "seed_dist/redaction.py",
    "seed_dist/watch/slurm.py",
    "seed_dist/dist/",
    "seed_dist/demo",
    "seed_dist/proof/",
    "seed_dist/doctor/",
    "launchers/",
)
# Deciding by rank is for those who know of ranks; others use `World.is_main`, `on_main` or do the same everywhere.
# (Two files of the training loop choose the rank that owns the journal and the progress line.)
MAY_ASK_FOR_RANK_ZERO = (
    "seed_dist/topology.py",
    "seed_dist/dist/",
    "seed_dist/obs/",
    "seed_dist/train/start.py",
    "seed_dist/train/events.py",
)
VAGUE_NAMES = {"utils", "util", "common", "helpers", "misc"}

Finding = tuple[str, int]


def prints(source: Source) -> Iterator[Finding]:
    if source.path.startswith(MAY_PRINT) or source.path.endswith("/__main__.py"):
        return
    mains = [node for node in source.tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    allowed = {id(node) for main in mains for node in ast.walk(main)}
    for node in ast.walk(source.tree):
        is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if is_print and id(node) not in allowed:
            yield "prints; log it, or return it to the command", node.lineno


def excepts_everything(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield "catches everything; name the errors", node.lineno


def imports_stars(source: Source) -> Iterator[Finding]:
    for item in imports(source):
        if item.module.endswith(".*"):
            yield f"imports {item.module}; name what is used", item.line


def reads_environment(source: Source) -> Iterator[Finding]:
    if source.path.startswith(MAY_READ_ENVIRONMENT):
        return
    for item in imports(source):
        if item.module in ("os.environ", "os.getenv"):
            yield f"imports {item.module}", item.line
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.putenv"):
            yield f"uses os.{node.attr}; take the value as an argument", node.lineno


def asks_for_rank_zero(source: Source) -> Iterator[Finding]:
    if source.path.startswith(MAY_ASK_FOR_RANK_ZERO):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Compare) and len(node.comparators) == 1:
            sides = [ast.unparse(side).rpartition(".")[2] for side in (node.left, node.comparators[0])]
            if "rank" in sides and "0" in sides:
                yield "compares a rank with 0; use World.is_main or dist.comm.on_main", node.lineno


def has_a_vague_name(source: Source) -> Iterator[Finding]:
    if source.module.rpartition(".")[2] in VAGUE_NAMES:
        yield "says nothing by its name; name the idea", 1


def defers_work(source: Source) -> Iterator[Finding]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if re.search(r"#.*\b(TODO|FIXME|XXX|HACK)\b", line):
            yield "leaves work for later; do it or open an issue", number


def has_no_docstring(source: Source) -> Iterator[Finding]:
    if source.text.strip() and ast.get_docstring(source.tree) is None:
        yield "has no docstring that says what the file is", 1


RULES: tuple[Callable[[Source], Iterator[Finding]], ...] = (
    prints, excepts_everything, imports_stars, reads_environment, asks_for_rank_zero, has_a_vague_name, defers_work,
    has_no_docstring,
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_habit(rule: Callable[[Source], Iterator[Finding]]) -> None:
    assert [f"{source.path}:{line} {what}" for source in sources() for what, line in rule(source)] == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (prints, "def main():\n    print(1)\ndef f():\n    print(2)"),
        (excepts_everything, "try:\n    f()\nexcept:\n    pass"),
        (imports_stars, "def f():\n    from os.path import *"),
        (reads_environment, "import os\nx = os.environ['A']"),
        (reads_environment, "from os import environ"),
        (asks_for_rank_zero, "if comm.rank == 0: f()"),
        (asks_for_rank_zero, "if 0 != rank: f()"),
        (defers_work, "x = 1  # TODO later"),
        (has_no_docstring, "x = 1"),
    ],
)
def test_the_rule_sees(rule: Callable[[Source], Iterator[Finding]], text: str) -> None:
    assert len(list(rule(Source("seed_dist/models/x.py", text)))) == 1


def test_the_vague_name_is_seen() -> None:
    assert list(has_a_vague_name(Source("seed_dist/models/utils.py", "")))


def test_nothing_names_a_machine() -> None:
    """No absolute path of somebody's machine, no private package index or proxy, in any file of the project."""
    folder = r"(?<![\w./*$}])/(?:work|root|home|tmp|opt|scratch|mnt)/\w"
    service = r"(?:index-url|proxy) *= *http|//[^/\s]+:[^/\s]+@"
    foreign = re.compile(f"{folder}|{service}")
    text_files = [path for path in project_files() if path.suffix not in (".safetensors", ".png", ".jpg", ".parquet")]
    assert len(text_files) > 40
    found = [
        f"{path.name}:{number} {line.strip()[:100]}"
        for path in text_files
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if foreign.search(line) and path.name != "test_habits.py"
    ]
    assert found == []
