"""Who may import whom. The table is the documentation."""

from __future__ import annotations

import pytest

from tests.architecture.sources import Source, imports, sources

# From the ground up. A unit is a module or folder directly below seed_dist/. It imports itself and what stands on lines
# above its own; units of one line do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "redaction"),
    ("cli", "faults", "fsio", "mixture", "page", "topology"),
    ("config", "order", "pixels"),
    ("assets",),  # its command reads recipes
    ("data", "losses", "metrics", "models"),
    ("testsets",),
    ("glyphs",),  # uses the models' torchvision guard and painter
    ("obs", "watch"),
    ("dist", "status"),
    ("suites",),
    ("chat", "compare", "convert", "encode", "eval", "ops", "plan", "sync", "tokenize", "train"),
    ("demo", "doctor"),
    ("proof", "studies"),
    ("drill", "prove_resume"),
)
LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}
WITHOUT_TORCH = 4  # levels below this one: --help, configuration checks and login-node commands start at once


def unit_of(module: str) -> str | None:
    """The unit of a module below seed_dist; None for the package itself and everything else."""
    package, _, rest = module.partition(".")
    return rest.split(".")[0] if package == "seed_dist" and rest and not rest.startswith("__") else None


def wrong_imports(source: Source) -> list[str]:
    own = unit_of(source.module)
    level = -1 if own is None else LEVEL[own]
    found = []
    for item in imports(source):
        other = unit_of(item.module)
        upwards = other not in (None, own) and LEVEL[other] >= level
        if source.path.startswith("seed_dist/") and upwards:
            found.append(f"{source.path}:{item.line} imports {item.module}, which is not below it")
        if 0 <= level < WITHOUT_TORCH and item.module.partition(".")[0] == "torch":
            found.append(f"{source.path}:{item.line} imports torch")
    return found


def test_every_unit_has_a_level() -> None:
    units = {unit for source in sources() if (unit := unit_of(source.module))}
    assert units - LEVEL.keys() == set(), "give these a line in LAYERS"


def test_imports_point_downwards() -> None:
    assert [problem for source in sources() for problem in wrong_imports(source)] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("seed_dist/models/x.py", "from seed_dist import dist"),
        ("seed_dist/fsio.py", "def f():\n    import seed_dist.config"),
        ("seed_dist/eval/x.py", "if TYPE_CHECKING:\n    from seed_dist.train.loop import Loop"),
        ("seed_dist/models/x.py", "from ..dist import comm"),
        ("seed_dist/config.py", "import torch.nn"),
        ("seed_dist/__init__.py", "from seed_dist.train import loop"),
    ],
)
def test_the_rule_sees(path: str, text: str) -> None:
    assert len(wrong_imports(Source(path, text))) == 1
