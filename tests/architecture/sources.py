"""The sources seen as syntax trees: what the rules of this folder are checked on."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("seed_dist", "data_prep", "launchers")


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the checkout's root with forward slashes, and its text."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return _parse(self.text)

    @property
    def module(self) -> str:
        """Dotted name; a package's `__init__` has the package's."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@dataclass(frozen=True)
class Import:
    """One imported module, absolute, and where it stands."""

    module: str
    line: int


@cache
def sources() -> tuple[Source, ...]:
    """Every Python file of the product; the tests are not among them."""
    files = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    assert len(files) > 20, f"only {len(files)} files were found below {ROOT}: the rules would hold of nothing"
    return tuple(Source(path.relative_to(ROOT).as_posix(), path.read_text()) for path in files)


@cache
def project_files() -> tuple[Path, ...]:
    """Every file of the project: what git tracks or would track; without git, what is not obviously made here."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        made = {".venv", ".git", "runs", "build", "__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache"}
        paths = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        names = [str(path) for path in paths if not made & set(path.parts) and ".egg-info" not in str(path)]
    files = tuple(path for name in names if (path := ROOT / name).is_file())
    assert len(files) > 40, f"only {len(files)} files were found below {ROOT}"
    return files


@cache
def imports(source: Source) -> tuple[Import, ...]:
    """Every import, those inside functions and under TYPE_CHECKING included.

    `from a import b` gives `a.b`: whether b is a module or a name in a makes no difference to any rule here.
    """
    return tuple(_imports(source))


def _imports(source: Source) -> Iterator[Import]:
    package = source.module if source.path.endswith("/__init__.py") else source.module.rpartition(".")[0]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            yield from (Import(f"{origin}.{alias.name}", node.lineno) for alias in node.names)


_ASKED = """
import runpy, sys
target = sys.argv[1]
sys.argv = [target, "--help"]
try:
    (runpy.run_path if target.endswith(".py") else runpy.run_module)(target, run_name="__main__")
except SystemExit as end:
    print("torch loaded" if "torch" in sys.modules else "torch not loaded", "code", end.code or 0)
"""


@cache
def help_of(target: str) -> str:
    """What `--help` of a module or script prints; every option of the command is in it. The last line says whether
    torch was loaded for it, and the exit code.
    """
    command = [sys.executable, "-c", _ASKED, target]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=150)
    assert run.stdout.splitlines()[-1].endswith("code 0"), run.stdout
    return run.stdout


@cache
def _parse(text: str) -> ast.Module:
    return ast.parse(text)
