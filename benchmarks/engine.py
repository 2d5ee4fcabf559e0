"""What the training loop and the engine cost beside the work: our step against a bare torch loop.

    python -m benchmarks.engine --rounds 7

Both train stage 2 on one rank with the same module, features and optimizer (DeepSpeed's FusedAdam; a third arm has
torch's own AdamW). Ours is `seed_dist.train.loop.train` as users run it: reading ahead, seeding, ZeRO-2, clipping, the
agreement on stopping, the journal. The bare loop reads the batch, and calls forward, backward, clip and step. A step is
the time from one end of an update to the next, by the clock and by the processor time of all threads, which other work
on the machine disturbs less. Rounds of a few steps are interleaved in one process; at published width the ratio is
told, at toy size the microseconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.hardware import keep, load
from benchmarks.rounds import times_faster
from seed_dist.config import Recipe, StageName, load_recipe
from seed_dist.dist.checkpoint_folder import Retention, prepare_folder
from seed_dist.dist.checkpoint_saver import CheckpointSaver
from seed_dist.dist.comm import Comm
from seed_dist.dist.ds_config import load_ds_config
from seed_dist.dist.engine import start_engine
from seed_dist.dist.launch import open_comm
from seed_dist.dist.preempt import StopRequest
from seed_dist.models.model_files import module_fingerprint
from seed_dist.models.qformer import CausalQFormer
from seed_dist.obs.journal import JOURNAL, Journal
from seed_dist.obs.progress import Progress
from seed_dist.topology import World
from seed_dist.train.data import Order, open_data, order_of
from seed_dist.train.loop import train
from seed_dist.train.parameter_groups import parameter_groups
from seed_dist.train.run import Run
from seed_dist.train.schedule import learning_rate
from seed_dist.train.stages.base import Stage
from seed_dist.train.stages.build import build_stage
from seed_dist.train.state import TrainState
from seed_dist.train.stragglers import Stragglers
from seed_dist.watch.heartbeat import Heartbeat
from tests.features import TINY, write_features

Ends = list[tuple[float, float]]  # by the clock, and processor time of all threads
Periods = npt.NDArray[np.float64]  # [steps, 2]: the same of each step, in seconds
STAGE: StageName = "codebook"
SAMPLES = 256
QUIET = ("validate_every=1000000", "checkpoint_every=1000000", "validation_samples=1")
TOY_STEPS = 60
SIZES: dict[str, tuple[str, tuple[str, ...]]] = {  # recipe, overrides
    "published width": ("seed_v2", ("backbones.text_tokenizer=embedded:clip", "backbones.qformer=null")),
    "toy": ("glyphs", (*TINY, "codebook.revive_after_steps=0", "codebook_training.log_every=50")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16, help="samples of a step at published width (%(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="of a round at published width (%(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {"threads": args.threads, "rounds": args.rounds, "load_average_before": load()}
    with open_comm(World(), 600.0) as comm:
        for name, (recipe, overrides) in SIZES.items():
            batch, steps = (8, TOY_STEPS) if name == "toy" else (args.batch, args.steps)
            training = (f"{STAGE}_training.{item}" for item in (f"global_batch={batch}", "accumulation=1", *QUIET))
            chosen = load_recipe(recipe, (*overrides, *training, f"{STAGE}_training.steps=100000"))
            with tempfile.TemporaryDirectory() as folder:
                result[name] = compare(chosen, Path(folder), comm, args.rounds, steps) | {"batch": batch}
    result["load_average_after"] = load()
    keep("engine", result, ["torch", "deepspeed"])


def compare(recipe: Recipe, work: Path, comm: Comm, rounds: int, steps: int) -> dict[str, Any]:
    """Median seconds of a step of each arm in each round, and how they compare, by both clocks."""
    write_inputs(recipe, work)
    arms = {"ours": our_loop(recipe, work, comm, work), "bare": bare_loop(recipe, work, comm, fused_adam)}
    arms["bare, torch's AdamW"] = bare_loop(recipe, work, comm, torch_adam)
    periods: dict[str, list[Periods]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name in list(arms) if number % 2 else reversed(list(arms)):
            measured = arms[name](steps + 1)
            if number:  # the first round is not counted
                periods[name].append(measured)
    clocks = {"by_the_clock": 0, "by_processor_time": 1}
    return {"steps_of_a_round": steps} | {what: _compared(periods, clock) for what, clock in clocks.items()}


def _compared(periods: dict[str, list[Periods]], clock: int) -> dict[str, Any]:
    seconds = {name: [float(np.median(of[:, clock])) for of in rounds] for name, rounds in periods.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    others = [name for name in seconds if name != "ours"]
    return {
        "step_seconds": {name: [round(value, 6) for value in values] for name, values in seconds.items()},
        "ours_as_a_share_of": {name: round(medians["ours"] / medians[name], 4) for name in others},
        "speed_against": {name: times_faster(seconds, "ours", name) for name in others},
        "microseconds_more_per_step": {name: round((medians["ours"] - medians[name]) * 1e6) for name in others},
    }


def write_inputs(recipe: Recipe, work: Path) -> None:
    """Random features, and the export of an untrained stage 1 that claims to have made them."""
    torch.manual_seed(0)
    qformer = CausalQFormer(recipe.qformer)
    qformer.save_pretrained(work / "causal_qformer" / "export", recipe.backbones, {})
    made_by = module_fingerprint(qformer, dataclasses.asdict(qformer.config))
    rng = np.random.default_rng(0)
    shapes = {
        "causal": (recipe.qformer.queries, recipe.qformer.width),
        "image_embedding": (recipe.codebook.generation_width,),
    }
    for target, shape in shapes.items():
        for split, count in (("train", SAMPLES), ("val", 2)):
            values = rng.standard_normal((count, *shape)).astype(np.float16)
            write_features(work, split, target, values, ["c"] * count, made_by)


def new_stage(recipe: Recipe, work: Path, comm: Comm) -> tuple[Stage, Ends]:
    """The stage, and the list to which the end of every update is added, by both clocks."""
    torch.manual_seed(0)
    stage = build_stage(recipe, STAGE, work, open_data(recipe, STAGE, work), comm)
    stage.prepare()
    ends: Ends = []
    original = stage.after_step

    def noted(engine: Any, applied: bool) -> None:
        original(engine, applied)
        ends.append((time.perf_counter(), time.process_time()))

    stage.after_step = noted  # type: ignore[method-assign]
    return stage, ends


def our_loop(recipe: Recipe, work: Path, comm: Comm, run_folder: Path) -> Callable[[int], Periods]:
    stage, ends = new_stage(recipe, work, comm)
    training = recipe.training(STAGE)
    groups = parameter_groups(stage, training.weight_decay, stage.without_decay)
    engine = start_engine(stage, groups, training, load_ds_config(recipe.engine, training, "fp32", comm.size), comm)
    checkpoints = run_folder / "checkpoints"
    prepare_folder(checkpoints, comm)
    run = Run(
        stage=stage,
        engine=engine,
        training=training,
        order=order(recipe, stage, comm),
        state=TrainState(),
        saver=CheckpointSaver(engine, Retention(checkpoints, 2)),
        journal=Journal(run_folder / JOURNAL if comm.rank == 0 else None),
        progress=Progress(STAGE, training.steps, 0, enabled=False),
        stop=StopRequest(),
        seed=recipe.seed,
        heartbeat=Heartbeat(run_folder / f"heartbeat-{comm.rank}"),
        stragglers=Stragglers(recipe.engine.straggler_factor),
    )

    def steps(count: int) -> Periods:
        ends.clear()
        train(run, run.state.step + count)
        return np.diff(np.array(ends), axis=0)

    return steps


def bare_loop(recipe: Recipe, work: Path, comm: Comm, optimizer_of: Callable[..., Any]) -> Callable[[int], Periods]:
    stage, ends = new_stage(recipe, work, comm)
    training, batches = recipe.training(STAGE), order(recipe, stage, comm)
    optimizer = optimizer_of(parameter_groups(stage, training.weight_decay, stage.without_decay), training)
    done = 0

    def steps(count: int) -> Periods:
        nonlocal done
        ends.clear()
        stage.train()
        for step in range(done, done + count):
            batch = {k: v.float() for k, v in stage.make_batch(batches.micro_batches(step)[0], step).items()}
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, step)
            loss, _ = stage(batch)
            optimizer.zero_grad()
            loss.backward()
            if training.clip_norm:
                torch.nn.utils.clip_grad_norm_(stage.parameters(), training.clip_norm)
            optimizer.step()
            loss.item()
            stage.after_step(None, True)  # type: ignore[arg-type]  # asked only to draw idle codes again
        done += count
        return np.diff(np.array(ends), axis=0)

    return steps


def fused_adam(groups: Any, training: Any) -> Any:
    from deepspeed.ops.adam import FusedAdam

    betas = (training.beta1, training.beta2)
    return FusedAdam(groups, lr=training.lr, betas=betas, eps=training.eps, adam_w_mode=True)


def torch_adam(groups: Any, training: Any) -> Any:
    betas = (training.beta1, training.beta2)
    return torch.optim.AdamW(groups, lr=training.lr, betas=betas, eps=training.eps)


def order(recipe: Recipe, stage: Stage, comm: Comm) -> Order:
    return order_of(stage.data, recipe.seed, recipe.training(STAGE), comm.rank, comm.size)


if __name__ == "__main__":
    main()
