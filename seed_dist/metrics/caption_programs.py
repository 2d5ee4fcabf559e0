"""METEOR and SPICE of captions, by the Java programs that come with pycocoevalcap.

Neither is required: UnavailableError says what is missing and how to get it. Captions are tokens with a blank between
them, as for the other measures.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seed_dist.errors import UnavailableError

_SPICE_MODELS = "stanford-corenlp-3.6.0-models.jar"


def meteor(written: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 of the whole corpus (Denkowski and Lavie 2014), English, from sums of its statistics; no mean."""
    scorer = _module("METEOR", "meteor.meteor").Meteor()
    return float(scorer.compute_score(*_as_dictionaries(written, references))[0])


def spice(written: Sequence[str], references: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
    """SPICE of each image (Anderson et al. 2016, arXiv 1607.08822), float64 [n]."""
    module = _module("SPICE", "spice.spice")
    if not (Path(module.__file__).parent / "lib" / _SPICE_MODELS).is_file():
        fetch = "python -c 'from pycocoevalcap.spice.get_stanford_models import get_stanford_models as f; f()'"
        raise UnavailableError(f"not measured: SPICE needs 500 MB of models of its own; fetch them with: {fetch}")
    try:
        _, scores = module.Spice().compute_score(*_as_dictionaries(written, references))
    except subprocess.CalledProcessError as error:
        raise UnavailableError(
            f"not measured: SPICE's program ended with {error.returncode}; it was made for Java 8, try that one."
        ) from error
    return np.array([score["All"]["f"] for score in scores], np.float64)


def _module(name: str, module: str) -> Any:
    missing = [
        needed
        for needed, found in (
            ("Java 8 or later (Debian, Ubuntu: apt-get install default-jre-headless)", shutil.which("java")),
            ("pip install pycocoevalcap==1.2", importlib.util.find_spec("pycocoevalcap")),
        )
        if found is None
    ]
    if missing:
        raise UnavailableError(f"not measured: {name} needs {' and '.join(missing)}")
    return importlib.import_module(f"pycocoevalcap.{module}")


def _as_dictionaries(
    written: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """References and captions by image, as pycocoevalcap wants them."""
    return {i: list(texts) for i, texts in enumerate(references)}, {i: [text] for i, text in enumerate(written)}
