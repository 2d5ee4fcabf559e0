"""The compiled op is made once, for exactly this environment, and a build that fails leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from seed_dist.dist import build_ops
from seed_dist.assets.location import CACHE_VARIABLE
from seed_dist.dist.build_ops import ensure_built, library_path
from seed_dist.errors import SeedDistError


class Compiler:
    """Writes a file where it is told to; counts how often."""

    def __init__(self, fails: bool = False) -> None:
        self.calls, self.fails = 0, fails

    def __call__(self, folder: Path) -> Path:
        self.calls += 1
        (folder / "half").write_text("object code")
        if self.fails:
            raise RuntimeError("the compiler found an error")
        made = folder / "out.so"
        made.write_text("library")
        return made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path


def test_it_is_compiled_once_and_kept(cache: Path) -> None:
    compiler = Compiler()
    first, second = ensure_built(compiler), ensure_built(compiler)
    assert compiler.calls == 1
    assert first == second == library_path()
    assert first.read_text() == "library"
    assert [path.name for path in first.parent.iterdir() if path.name != ".lock"] == ["fused_adam.so"]
    assert cache in first.parents


def test_a_failed_build_leaves_nothing_that_looks_finished(cache: Path) -> None:
    with pytest.raises(RuntimeError, match="compiler found"):
        ensure_built(Compiler(fails=True))
    assert [path.name for path in library_path().parent.iterdir()] == [".lock"]
    assert ensure_built(Compiler()).is_file()


def test_another_processor_gets_its_own_library(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = library_path()
    monkeypatch.setattr(build_ops, "_cpu_flags", lambda: "sse2")
    assert library_path() != here


def test_a_missing_compiler_is_named_with_what_to_install(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SeedDistError, match=r"no-such-compiler.*apt-get install"):
        ensure_built(Compiler())
