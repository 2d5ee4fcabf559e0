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

Floats = npt.NDArray[np.float64]
_METEOR_STATISTICS, _CHUNKS = 23, 20
_SPICE_MODELS = "stanford-corenlp-3.6.0-models.jar"


class Meteor:
    """METEOR 1.5 (Denkowski and Lavie 2014), English, by its program, which stays open (2 GB of memory at most).

    METEOR of a corpus is no mean: it is made of the sums of its captions' statistics (matches, lengths, chunks), which
    the program gives for each and takes back as one line. So any choice of captions is measured without aligning anew.
    """

    def __init__(self) -> None:
        self._program = _module("METEOR", "meteor.meteor").Meteor()

    def statistics(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
        """One row for each caption, float64 [n, 23]. Sums of rows are such a row: where all words of both sides match
        in one chunk, the program adds none to the chunks of a corpus (MeteorStats.addStats), so there is none here.
        """
        try:
            lines = [self._program._stat(text, list(texts)) for text, texts in zip(written, references, strict=True)]
        except OSError as error:
            raise self._ended() from error
        rows = [np.array(line.split(), np.float64) for line in lines]
        if any(len(row) != _METEOR_STATISTICS for row in rows):
            raise self._ended()
        table = np.stack(rows)
        lengths, stages = table[:, :2], table[:, 4:20].reshape(len(table), -1, 2).sum(1)  # of caption and reference
        perfect = (lengths == stages).all(1) & (table[:, _CHUNKS] == 1)
        table[perfect, _CHUNKS] = 0
        return table

    def score(self, statistics: Floats) -> float:
        """METEOR of the captions that a row [23] of statistics, or a sum of rows, stands for."""
        pipes = self._program.meteor_p
        try:
            pipes.stdin.write(f"EVAL ||| {' '.join(str(float(value)) for value in statistics)}\n".encode())
            pipes.stdin.flush()
            pipes.stdout.readline()  # of each line of statistics; then of all together
            return float(pipes.stdout.readline())
        except (OSError, ValueError) as error:
            raise self._ended() from error

    def _ended(self) -> UnavailableError:
        code = self._program.meteor_p.poll()
        return UnavailableError(f"not measured: METEOR's program ended with {code}; it needs 2 GB of memory.")


def spice(written: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
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
