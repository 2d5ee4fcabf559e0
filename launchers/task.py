"""What runs in every task of a submitted job: one of the pipeline's own commands, told which rank it is."""

from __future__ import annotations

import os
import runpy
import sys
from dataclasses import dataclass

import submitit
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment


@dataclass(frozen=True)
class Task:
    """A module or script of the checkout and its arguments; the same words as behind `python -m`."""

    program: str
    arguments: tuple[str, ...]

    def __call__(self) -> None:
        """Run it as `python -m` would; RuntimeError when it ends with an exit code, so that the job has failed."""
        # Not one GPU per rank: DeepSpeed counts the devices of the node by LOCAL_RANK and must see all of them.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if submitit.JobEnvironment().num_nodes == 1:
            os.environ["MASTER_ADDR"] = "127.0.0.1"  # a laptop's own name need not resolve
        sys.argv = [self.program, *self.arguments]
        try:
            if self.program.endswith(".py"):
                runpy.run_path(self.program, run_name="__main__")
            else:
                runpy.run_module(self.program, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{self.program} ended with exit code {end.code}; its message is above") from None

    def checkpoint(self) -> DelayedSubmission:
        """On a time-out or preemption: the same task again, which goes on from what is on disk."""
        return DelayedSubmission(self)
