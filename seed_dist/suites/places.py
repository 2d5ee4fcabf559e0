"""Where the models are that a suite measures, as the options say; looked at without loading any.

--run DIR          a workspace, whose stages are used as far as they are finished; WORK/STAGE: up to that stage
--tokenizer PATH   an exported tokenizer, or stage 1's export, instead of the run's
--llm PATH         the export of stage lora, or the merged model made of it, instead of the run's
--judge clip=PATH  an open_clip folder that scores pictures instead of the tokenizer's generation encoder;
                   inception=FILE and lpips=FILE: weights for FID, Inception Score and LPIPS
--peer PATH        open_clip folders that are measured beside ours
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_dist.config import STAGES, StageName
from seed_dist.errors import UnavailableError

_RUN = "run.json"


@dataclass(frozen=True)
class Places:
    """Where the models are, as the options say."""

    run: Path | None = None
    tokenizer: Path | None = None
    llm: Path | None = None
    judge: str | None = None
    peers: tuple[str, ...] = ()
    inception: Path | None = None
    lpips: Path | None = None

    @property
    def work(self) -> Path | None:
        """The workspace of --run."""
        return self.run.parent if self.run is not None and self._stage else self.run

    def export(self, stage: StageName) -> Path:
        """The folder of a finished stage of --run. UnavailableError where it is not there."""
        if self.work is None:
            raise UnavailableError(f"the export of stage {stage} is needed, but no --run is given. Name a workspace.")
        folder = self.work / stage / "export"
        if self._stage and STAGES.index(stage) > STAGES.index(self._stage):
            raise UnavailableError(f"--run {self.run} is stage {self._stage}; name {self.work} to use {stage} too.")
        if not folder.is_dir():
            command = f"python -m seed_dist.train --recipe {self._recipe()} --work {self.work} --stage {stage}"
            raise UnavailableError(f"{folder} is not there: the stage {stage} is not finished.", command)
        return folder

    def recorded(self, stage: StageName) -> dict[str, Any]:
        """run.json of a stage of --run; empty without one."""
        path = None if self.work is None else self.work / stage / _RUN
        return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}

    @property
    def _stage(self) -> StageName | None:
        return next((stage for stage in STAGES if self.run is not None and self.run.name == stage), None)

    def _recipe(self) -> str:
        return next((str(run["recipe"]["name"]) for stage in STAGES if (run := self.recorded(stage))), "NAME")
