"""World: which of how many processes this is. Frozen integers, read once from the environment, then an argument."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from seed_dist.errors import ConfigError

# Launcher -> variables that it sets for (rank, size, local rank, local size), in the order in which they are tried.
# torchrun and deepspeed set the first; srun the second.
_LAUNCHERS: dict[str, tuple[str, str, str, str]] = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
}


@dataclass(frozen=True)
class World:
    """Position of this process: `rank` of `size`; on its node `local_rank` of `local_size`."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str = "single"

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.size and 0 <= self.local_rank < self.local_size):
            raise ConfigError(
                [
                    f"rank {self.rank} of {self.size} (local {self.local_rank} of {self.local_size}) is no position; "
                    f"check the variables that {self.launcher} sets: {', '.join(_LAUNCHERS.get(self.launcher, ()))}"
                ]
            )

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def world_from_environment(env: Mapping[str, str] = os.environ) -> World:
    """The World that torchrun or srun describes in `env`; a single process where neither does.

    An `sbatch` script's own shell has SLURM variables but is no task of a step, so srun counts only with SLURM_STEP_ID.
    A half-set environment is an error: guessing would start n processes that each believe to be alone.
    """
    for launcher, names in _LAUNCHERS.items():
        if launcher == "srun" and "SLURM_STEP_ID" not in env:
            continue
        rank, size, local_rank, local_size = names
        if rank not in env and size not in env:
            continue
        missing = [name for name in (rank, size, local_rank) if name not in env]
        if missing:
            raise ConfigError(
                [
                    f"{launcher} set some of its variables but not {', '.join(missing)}; "
                    f"start with torchrun or srun, or unset {rank} and {size} for a single process"
                ]
            )
        try:
            values = [int(env[name]) for name in (rank, size, local_rank)]
            nodes_tasks = int(env.get(local_size, values[1]))
        except ValueError as error:
            raise ConfigError([f"{launcher}'s variables {names} must be whole numbers: {error}"]) from error
        return World(values[0], values[1], values[2], nodes_tasks, launcher)
    return World()
