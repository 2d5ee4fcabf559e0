"""One attempt at a stage, from the open process group to the export: everything around the loop, in the order that it
needs.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seed_dist.config import Recipe, StageName, TrainConfig
from seed_dist.dist.checkpoint import load_checkpoint, newest_checkpoint, verify_checkpoint
from seed_dist.dist.checkpoint_folder import Retention, check_room, prepare_folder
from seed_dist.dist.checkpoint_saver import CheckpointSaver
from seed_dist.dist.comm import Comm, on_main
from seed_dist.dist.ds_config import fitted_training, load_ds_config
from seed_dist.dist.engine import Engine, start_engine
from seed_dist.dist.precision import precision_on
from seed_dist.dist.preempt import StopRequest
from seed_dist.errors import CheckpointError, TrainingError
from seed_dist.fsio import atomic_folder, fingerprint, folder_lock, write_text
from seed_dist.obs.journal import JOURNAL, Journal
from seed_dist.obs.live_page_process import kept_live_page
from seed_dist.obs.mlflow_process import Tracking, copied_to_mlflow
from seed_dist.obs.model_card import CARD, Training, export_card
from seed_dist.obs.progress import Progress
from seed_dist.obs.provenance import attempt, check_run, record_run
from seed_dist.status.facts import RunReader
from seed_dist.train.data import StageData, order_of
from seed_dist.train.loop import train
from seed_dist.train.parameter_groups import parameter_groups
from seed_dist.train.run import Outcome, Run
from seed_dist.train.stages import EXPORT
from seed_dist.train.stages.base import Stage
from seed_dist.train.stages.build import build_stage
from seed_dist.train.state import TrainState, derived_seed, seed_everything
from seed_dist.train.stragglers import Stragglers
from seed_dist.train.watching import watched_attempt

CHECKPOINTS = "checkpoints"
_LEAVE_S = 3.0  # for a commit when this rank ends with an error; the watchdog gives it hardly more
_LOG = logging.getLogger("seed_dist")


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    recipe: Recipe
    stage: StageName
    work: Path
    identity: dict[str, Any]  # see obs.provenance.stage_identity
    last_step: int
    fresh: bool = False
    resume_from: Path | None = None
    init_from: Path | None = None
    mlflow: Tracking = field(default_factory=Tracking)
    live_page: bool = False

    @property
    def folder(self) -> Path:
        return self.work / self.stage


def run_stage(request: Request, data: StageData, comm: Comm, stop: StopRequest | None = None) -> Outcome:
    """Train one stage as far as asked, or until `stop`, and export it when it is finished."""
    section = f"{request.stage}_training"
    training = fitted_training(section, request.recipe.training(request.stage), comm.size)
    changes: dict[str, Any] = {section: training}
    recipe = dataclasses.replace(request.recipe, **changes)
    with (
        _own_run_directory(request, comm) as folder,
        watched_attempt(folder, comm, recipe.engine) as this_attempt,
        copied_to_mlflow(folder, request.mlflow, comm.rank),
        kept_live_page(folder, request.live_page, comm.rank),
    ):
        prepare_folder(folder / CHECKPOINTS, comm)
        seed_everything(recipe.seed, request.stage, "initial weights")  # equal on all ranks
        stage = build_stage(recipe, request.stage, request.work, data, comm)
        this_attempt.heartbeat.beat("load", 0)
        start = _find_start(request, folder, comm)
        if start is None or start.weights_only:
            stage.prepare()  # before the engine copies the parameters into its fp32 masters
        engine = _start_engine(recipe, request.stage, stage, comm)
        state = _load(start, engine) if start else TrainState()
        stage.memory = state.stage_memory
        saver = _saver(folder / CHECKPOINTS, engine, training, state, start)
        # Everything that a wrong option can break has been built: from here on the folder belongs to this
        # configuration.
        on_main(comm, lambda: record_run(folder, request.recipe, request.identity, comm.size))
        journal = Journal(folder / JOURNAL if comm.rank == 0 else None)
        journal.write("start", state.step, world_size=comm.size, source=str(start.path) if start else None, **attempt())
        journal.write("data", state.step, splits=data.composition(training))
        _LOG.info("%s: %s", request.stage, _describe(training, state, start, engine))
        for split, part in data.composition(training).items() if len(data.parts) > 1 else ():
            _LOG.info("  %s: %d samples, share %.4g, %.3g passes", split, *part.values())
        last_step = min(request.last_step, training.steps)
        order_seed = derived_seed(recipe.seed, "order", data.train.fingerprint)
        run = Run(
            stage=stage,
            engine=engine,
            training=training,
            order=order_of(data, order_seed, training, comm.rank, comm.size),
            state=state,
            saver=saver,
            journal=journal,
            progress=Progress(request.stage, training.steps, state.step, comm.rank == 0),
            stop=StopRequest() if stop is None else stop,
            seed=recipe.seed,
            heartbeat=this_attempt.heartbeat,
            stragglers=Stragglers(recipe.engine.straggler_factor),
        )
        try:
            outcome = train(run, last_step)
        finally:
            journal.sync()
            saver.leave(_LEAVE_S)
        if outcome is Outcome.FINISHED:
            run.heartbeat.beat("export", run.state.step)
            _export(request, run, folder)
        journal.close()
        this_attempt.ends(outcome, run.state.step)  # not `state`: a run that went back has another
    return outcome


@contextmanager
def _own_run_directory(request: Request, comm: Comm) -> Iterator[Path]:
    """The run directory, locked by rank 0 against other trainings and checked to belong to this configuration."""
    everybody = comm.gather_objects(fingerprint(request.identity))
    if len(set(everybody)) > 1:
        raise TrainingError(f"the ranks were started with different options or see different data: {everybody}")
    with ExitStack() as owned:

        def claim() -> None:
            if request.fresh:
                _set_aside(request.folder)
            owned.enter_context(folder_lock(request.folder, f"training of {request.stage}"))
            check_run(request.folder, request.identity)

        on_main(comm, claim)
        yield request.folder


def _set_aside(folder: Path) -> None:
    """Rename an existing run directory to the first free NAME.old-N."""
    if not folder.exists():
        return
    with folder_lock(folder, "setting aside"):  # not while another process trains in it
        pass
    number = next(n for n in range(1, 1000) if not folder.with_name(f"{folder.name}.old-{n}").exists())
    kept = folder.with_name(f"{folder.name}.old-{number}")
    folder.rename(kept)
    _LOG.info("--fresh: the earlier run is kept as %s", kept)


@dataclass(frozen=True)
class _Start:
    """A checkpoint to start from; `weights_only` leaves position and optimizer at the beginning."""

    path: Path
    weights_only: bool = False


def _find_start(request: Request, folder: Path, comm: Comm) -> _Start | None:
    """Where training starts. The first that applies:

    (1) the newest valid checkpoint of this run, (2) --resume-from, (3) --init-from, weights only, (4) from scratch:
    None. A run that has checkpoints of which none is valid never gets past (1).
    """
    own = newest_checkpoint(folder / CHECKPOINTS, comm)
    if own is not None:
        return _Start(own)
    for path, weights_only in ((request.resume_from, False), (request.init_from, True)):
        if path is not None:
            problem = verify_checkpoint(path, comm)
            if problem is not None:
                raise CheckpointError(
                    f"{path} cannot be used: {problem}. Give a folder like RUN/checkpoints/step_00000400."
                )
            return _Start(path, weights_only)
    return None


def _start_engine(recipe: Recipe, name: StageName, stage: Stage, comm: Comm) -> Engine:
    precision = precision_on(comm.device, recipe.engine.precision)
    training = recipe.training(name)
    ds_config = load_ds_config(recipe.engine, training, precision, comm.size)
    groups = parameter_groups(stage, training.weight_decay, stage.without_decay)
    return start_engine(stage, groups, training, ds_config, comm)


def _load(start: _Start, engine: Engine) -> TrainState:
    saved = load_checkpoint(start.path, engine, start.weights_only)
    return TrainState() if start.weights_only else TrainState.from_dict(saved)


def _saver(
    checkpoints: Path, engine: Engine, training: TrainConfig, state: TrainState, start: _Start | None
) -> CheckpointSaver:
    """Ready to save, with room for all that is to be kept. What training starts from has been verified."""
    verified = {start.path.name} if start is not None and start.path.parent == checkpoints else set()
    every, keep = training.permanent_every, training.keep_checkpoints
    saver = CheckpointSaver(engine, Retention(checkpoints, keep, every, verified))
    permanent = training.steps // every - state.step // every if every else 0
    check_room(checkpoints, engine.comm, saver.own_bytes, keep, permanent)
    return saver


def _describe(training: TrainConfig, state: TrainState, start: _Start | None, engine: Engine) -> str:
    comm = engine.comm
    trainable = sum(p.numel() for p in engine.module.parameters() if p.requires_grad)
    source = f"goes on at step {state.step}" if state.step else "starts"
    if start is not None:
        source += f" from {start.path}"
    return (
        f"{source}; {training.steps} steps of {training.global_batch} samples on {comm.size} rank(s), "
        f"{comm.device.type}, {str(engine.dtype).removeprefix('torch.')}, {trainable:,} trainable parameters"
    )


def _training(folder: Path) -> Training:
    """What the run directory tells of itself, for the model card."""
    reader = RunReader(folder)
    facts, validation = reader.facts(has_ended=True), reader.history.validation or {}
    count = validation.get("validation_samples")
    revision = reader.record["git"]["revision"]
    return Training(revision, reader.samples, facts.validation, count and int(count), facts.reference.words())


def _export(request: Request, run: Run, folder: Path) -> None:
    """Write RUN/export, complete or not at all, then say that the stage is finished."""
    run.engine.widen()
    provenance = {
        "stage": request.stage,
        "run_fingerprint": fingerprint(request.identity),
        "step": run.state.step,
        "samples_seen": run.state.samples,
        "seed": request.recipe.seed,
        "parents": run.stage.data.parents,
    }

    def export() -> None:
        with atomic_folder(folder / EXPORT) as partial:
            run.stage.export(partial, provenance)
            write_text(partial / CARD, export_card(request.recipe, provenance, _training(folder)))

    on_main(run.engine.comm, export)
    run.journal.write("finished", run.state.step, export=EXPORT)
