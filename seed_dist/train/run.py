"""What one attempt at a stage works with, and how it can end."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from seed_dist.config import TrainConfig
from seed_dist.dist.checkpoint_saver import CheckpointSaver
from seed_dist.dist.engine import Engine
from seed_dist.dist.preempt import StopRequest
from seed_dist.obs.journal import Journal
from seed_dist.obs.progress import Progress
from seed_dist.train.data import Order
from seed_dist.train.stages.base import Stage
from seed_dist.train.state import TrainState
from seed_dist.train.stragglers import Stragglers
from seed_dist.watch.heartbeat import Heartbeat


class Outcome(enum.Enum):
    """How the loop ended."""

    FINISHED = "finished"  # the recipe's last step is done
    LIMIT = "limit"  # the step that the caller asked for is done
    STOPPED = "stopped"  # a signal or the end of the job's time asked for it; everything is saved


@dataclass
class Run:
    """One attempt: objects of this process, the position, and where things are written."""

    stage: Stage
    engine: Engine
    training: TrainConfig
    order: Order
    state: TrainState
    saver: CheckpointSaver
    journal: Journal
    progress: Progress
    stop: StopRequest
    seed: int
    heartbeat: Heartbeat
    stragglers: Stragglers
    alarm: str | None = None  # what the stage said last
