"""Runs the frozen models over image shards once: python data_prep/encode.py --work WORK --target patches --split train

patches, image_embedding and text_features are made from WORK/images/SPLIT; causal from patches, by the trained stage
causal_qformer; codes from causal, by the trained stage codebook. Targets given together share one pass over the images.

Start the same command as often as there are GPUs, on any nodes that see WORK: the processes share the shards, may die,
and may join later. Each ends when all is finished. Run again after an interruption: finished shards are kept, finished
sets stay as they are. On SIGUSR1, SIGUSR2 and in time before the end of a SLURM job the command leaves after the shard
that it is at, with exit code 75.

  --status     how far all processes together are, who they are, when it will be done   (exit code 0)
  --audit 100  encode 100 random samples of each finished set again and compare   (exit code 3 where one differs)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from seed_dist.cli import EXIT_STOPPED, run_command
from seed_dist.config import Recipe, load_recipe
from seed_dist.data.precision import PRECISIONS
from seed_dist.dist.deadline import job_deadline
from seed_dist.dist.preempt import EARLY_SIGNALS, StoppedError, StopRequest, stop_requests
from seed_dist.encode.targets import STORED_AS_ASKED, TARGETS
from seed_dist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from seed_dist.encode.workspace import EncodeRequest

_SHOWN_DIFFERENCES = 10


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.status:
        _print_status(arguments)
        return
    problems = _problems(arguments)
    if problems:
        raise ConfigError(problems)
    recipe = load_recipe(arguments.recipe, arguments.set)

    # SIGTERM and Ctrl-C end it at once: nothing is lost but the shard that it is at.
    with stop_requests(job_deadline(), EARLY_SIGNALS) as stop:
        try:
            _encode(arguments, recipe, stop)
        except StoppedError as reason:
            print(f"stopped ({reason}); the same command goes on where it was", flush=True)
            sys.exit(EXIT_STOPPED)


def _encode(arguments: argparse.Namespace, recipe: Recipe, stop: StopRequest) -> None:
    from seed_dist.encode.workspace import (  # torch, when the options are known to be right
        EncodeRequest,
        encode_workspace,
    )

    request = EncodeRequest(
        recipe=recipe,
        work=arguments.work,
        targets=arguments.target,
        splits=arguments.split,
        batch_size=arguments.batch_size,
        threads=arguments.threads,
        device=arguments.device,
        dtype=arguments.dtype,
        views=arguments.views,
        max_reject_fraction=arguments.max_reject_fraction,
        stop=stop,
    )
    if arguments.audit:
        _audit(request, arguments)
        return
    for folder, manifest in encode_workspace(request):
        kind = f"{manifest.details['dtype']} {list(manifest.details['shape'])}"
        print(f"{folder} is finished: {manifest.samples} x {kind} (fingerprint {manifest.fingerprint})", flush=True)
        for reason, count in manifest.details.get("rejected", {}).items():
            print(f"  {count} samples have no features: {reason} (see {folder / 'rejects.parquet'})", flush=True)


def _problems(arguments: argparse.Namespace) -> list[str]:
    """Everything that is wrong with the options."""
    counts = ("batch-size", "threads", "views")
    values = {name: getattr(arguments, name.replace("-", "_")) for name in counts}
    problems = [f"--{name} is {value}; at least 1 is needed" for name, value in values.items() if value < 1]
    problems += [
        f"--{name} is missing; give it once or more" for name in ("target", "split") if not getattr(arguments, name)
    ]
    if arguments.audit < 0 or arguments.audit_tolerance < 0:
        problems.append("--audit and --audit-tolerance must not be negative")
    if not 0 <= arguments.max_reject_fraction <= 1:
        problems.append(f"--max-reject-fraction is {arguments.max_reject_fraction}; give a share from 0 to 1")
    if arguments.target and arguments.dtype != "float16" and not set(arguments.target) & set(STORED_AS_ASKED):
        problems.append(f"--dtype {arguments.dtype} is for {' and '.join(STORED_AS_ASKED)}, and neither is a --target")
    return problems


def _print_status(arguments: argparse.Namespace) -> None:
    from seed_dist.encode.status import workspace_status

    found = workspace_status(arguments.work, arguments.target or (), arguments.split or ())
    if not found:
        raise DataError(f"{arguments.work / 'features'} holds no features that are begun or finished.")
    for status in found:
        print("\n".join(status.lines()))


def _audit(request: EncodeRequest, arguments: argparse.Namespace) -> None:
    """Print what was compared; DataError names the samples that differ."""
    from seed_dist.encode.workspace import audit_workspace

    problems = []
    for audit in audit_workspace(request, arguments.audit, arguments.audit_seed):
        beyond = audit.beyond(arguments.audit_tolerance)
        print(
            f"{audit.folder}: {audit.samples} samples encoded again, {audit.samples - len(audit.differences)} equal to "
            f"the last bit, {len(audit.differences) - len(beyond)} within --audit-tolerance, {len(beyond)} others",
            flush=True,
        )
        shown = ", ".join(f"{found.key} (off by {found.largest:.2g})" for found in beyond[:_SHOWN_DIFFERENCES])
        problems += [f"  - {audit.folder}: {len(beyond)} samples: {shown}"] if beyond else []
    if problems:
        raise DataError(
            "stored features are not what the encoder makes (off by: share of the sample's largest value):\n"
            + "\n".join(problems)
            + "\nOther hardware or another --batch-size rounds otherwise, by about 0.001: then give --audit-tolerance. "
            "If it is more, delete the folder and encode again."
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--recipe", default="glyphs", metavar="NAME", help="recipe name or .yaml file (default: %(default)s)")
    add("--set", action="append", default=[], metavar="SECTION.OPTION=VALUE", help="change an option of the recipe")
    add("--work", type=Path, required=True, metavar="DIR", help="workspace with images/SPLIT")
    add("--target", action="extend", nargs="+", choices=TARGETS, help="what to make; may be several")
    add("--split", action="extend", nargs="+", metavar="SPLIT", help="train, val, ...; may be several")
    add(
        "--dtype",
        default="float16",
        choices=PRECISIONS,
        help="how patches and causal are stored; int8, with a scale per token, halves the room (default: %(default)s)",
    )
    add(
        "--views",
        type=int,
        default=1,
        metavar="K",
        help="the plain picture and K - 1 random crops of it, for patches, image_embedding and causal; train with "
        "--set views=K (default: %(default)s)",
    )
    add("--batch-size", type=int, default=256, metavar="N", help="samples per forward pass (default: %(default)s)")
    add("--threads", type=int, default=1, metavar="N", help="batches decoded ahead (default: %(default)s)")
    add(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda:1, ... (default: a GPU for each of srun's processes)",
    )
    add(
        "--max-reject-fraction",
        type=float,
        default=0.01,
        metavar="X",
        help="stop when more than this share of the samples cannot be encoded (default: %(default)s)",
    )
    add("--status", action="store_true", help="show progress of all --target and --split, or of those given, and leave")
    add(
        "--audit",
        type=int,
        default=0,
        metavar="N",
        help="encode N random samples of each finished set again, and leave",
    )
    add("--audit-seed", type=int, default=0, metavar="SEED", help="chooses the samples (default: %(default)s)")
    add(
        "--audit-tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="put up with differences of this share of a sample's largest value (default: none, equal bits)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
