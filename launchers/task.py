"""What runs in every task of a submitted job: one of the pipeline's own commands, told which rank it is.

The command is a process of its own, with the same words as under srun or torchrun. Signals go to it, and nowhere else:
submitit's own answer to them would be to save on rank 0 alone and to requeue while the others are at work. So a stop is
what it is everywhere: the ranks agree on it, all save, all end with 75, and the batch script requeues the job once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from types import FrameType

import submitit
from submitit.helpers import DelayedSubmission, TorchDistributedEnvironment

_FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_FIRST_SIGNAL = 128  # exit codes of what a signal ended, as shells give them


@dataclass(frozen=True)
class Task:
    """A module or script, as from the folder of the code, and its arguments; the same words as behind `python -m`."""

    program: str
    arguments: tuple[str, ...]

    def __call__(self) -> None:
        """Run it. On SLURM this process ends with its exit code; on this machine RuntimeError tells of it."""
        # Not one GPU per rank: DeepSpeed counts the devices of the node by LOCAL_RANK and must see all of them.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        job = submitit.JobEnvironment()
        if job.num_nodes == 1:
            os.environ["MASTER_ADDR"] = "127.0.0.1"  # a laptop's own name need not resolve
        head = () if self.program.endswith(".py") else ("-m",)
        command = subprocess.Popen([sys.executable, *head, self.program, *self.arguments])

        def forward(number: int, frame: FrameType | None) -> None:
            command.send_signal(number)

        for number in _FORWARDED:
            signal.signal(number, forward)
        code = command.wait()
        code = code if code >= 0 else _FIRST_SIGNAL - code
        if code and job.cluster == "local":
            raise RuntimeError(f"{self.program} ended with exit code {code}; its message is above")
        if code:
            sys.exit(code)

    def checkpoint(self) -> DelayedSubmission:
        """The same task again. submitit asks for it when a signal comes before the command has been started."""
        return DelayedSubmission(self)
