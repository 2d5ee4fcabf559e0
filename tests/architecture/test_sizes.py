"""How long a file, a function and a list of parameters may be: only a test keeps what can be read in one sitting so."""

from __future__ import annotations

import ast

import pytest

from tests.architecture.sources import Source, sources

FILE_LINES = 350
FUNCTION_LINES = 60
PARAMETERS = 7
ALL_LINES = 32_000  # of code: docstrings, comments and blank lines cost a reader nothing

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


def code_lines(source: Source) -> int:
    """Lines that hold code: no comments, docstrings or blank lines."""
    holds = {ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef}
    prose: set[int] = set()
    for node in ast.walk(source.tree):
        if type(node) in holds and ast.get_docstring(node, clean=False) is not None:
            prose.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(source.text.splitlines(), 1)
    return sum(1 for number, line in lines if number not in prose and line.strip() and line.strip()[0] != "#")


def _limit(name: str, usual: int) -> int:
    return EXCEPTIONS[name][0] if name in EXCEPTIONS else usual


def test_sizes() -> None:
    assert [problem for source in sources() for problem in too_long(source)] == []


def test_the_whole_stays_readable() -> None:
    assert sum(code_lines(source) for source in sources()) <= ALL_LINES


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


def test_prose_is_not_counted() -> None:
    text = '"""What."""\n\n# Why.\ndef f():\n    """How,\n\n    long.\n    """\n    return 1  # one\n'
    assert code_lines(Source("seed_dist/x.py", text)) == 2


def test_the_limits_themselves_are_allowed() -> None:
    body = "    x = 1\n" * (FUNCTION_LINES - 1)
    assert too_long(Source("seed_dist/x.py", "def f(a, b, c, d, e, f, g):\n" + body)) == []
