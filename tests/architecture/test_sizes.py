"""How long a file, a function and a list of parameters may be: what is read in one sitting stays that way only by a test."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.sources import Source, sources

FILE_LINES = 350
FUNCTION_LINES = 60
PARAMETERS = 7
ALL_LINES = 8000

# "path" or "path::function": (limit, reason). At most five, and each with its own limit.
EXCEPTIONS: dict[str, tuple[int, str]] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def too_long(source: Source) -> list[str]:
    found = []
    lines = len(source.text.splitlines())
    if lines > _limit(source.path, FILE_LINES):
        found.append(f"{source.path} has {lines} lines; {FILE_LINES} are allowed: one idea per file")
    for node in ast.walk(source.tree):
        if not isinstance(node, Function):
            continue
        name = f"{source.path}::{node.name}"
        span = (node.end_lineno or node.lineno) - node.lineno + 1
        if span > _limit(name, FUNCTION_LINES):
            found.append(f"{name} has {span} lines; {FUNCTION_LINES} are allowed")
        if (count := parameters(node)) > PARAMETERS:
            found.append(f"{name} has {count} parameters; {PARAMETERS} are allowed: pass a dataclass")
    return found


def parameters(node: Function) -> int:
    """Without `self` and `cls`."""
    names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    names += [arg.arg for arg in (node.args.vararg, node.args.kwarg) if arg]
    return len([name for name in names if name not in ("self", "cls")])


def _limit(name: str, usual: int) -> int:
    return EXCEPTIONS[name][0] if name in EXCEPTIONS else usual


def test_sizes() -> None:
    assert [problem for source in sources() for problem in too_long(source)] == []


def test_the_whole_stays_readable() -> None:
    assert sum(len(source.text.splitlines()) for source in sources()) <= ALL_LINES


def test_exceptions_are_few_and_still_needed() -> None:
    assert len(EXCEPTIONS) <= 5
    known = {source.path for source in sources()}
    assert {name.partition("::")[0] for name in EXCEPTIONS} <= known
    assert all(reason for _, reason in EXCEPTIONS.values())


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * (FILE_LINES + 1),
        "def f():\n" + "    x = 1\n" * FUNCTION_LINES,
        "class A:\n    def f(self, a, b, c, d, e, f, g, *, h): ...",
        "def f(a, b, c, d, e, f, *g, **h): ...",
    ],
)
def test_the_rule_sees(text: str) -> None:
    assert len(too_long(Source("seed_dist/x.py", text))) == 1


def test_the_limits_themselves_are_allowed() -> None:
    body = "    x = 1\n" * (FUNCTION_LINES - 1)
    assert too_long(Source("seed_dist/x.py", "def f(a, b, c, d, e, f, g):\n" + body)) == []
