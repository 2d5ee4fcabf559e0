"""Why a run died, and whether its job should be started again.

  python -m seed_dist.watch runs/big/codebook                  the cause of the last attempt's death, on one page
  python -m seed_dist.watch runs/big --exit-code 137           the verdict on a job that has ended with this code

With --exit-code it is for scripts: it ends with 0 when all is done, with 75 when the job should be requeued, otherwise
with the job's own code (1 where that was 0: a training that ended with 0 and had not finished has failed). Slurm's
state of the job is asked for where there is one. What is looked at are the attempts in RUN/incidents:

  asked to stop, preempted                 requeue, and it costs no budget
  killed, hung, network, GPU, node lost    requeue, until --budget deaths of the run
  three deaths at one step                 stop: a crash loop; also five without a new checkpoint between them
  out of memory                            one more try
  configuration, data, numbers             stop: it would only happen again (exit codes 2 to 7)
  cancelled                                stop
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from seed_dist.cli import EXIT_STOPPED, run_command
from seed_dist.errors import ConfigError
from seed_dist.watch.attempts import (
    INCIDENTS,
    PAGE,
    attempt_folders,
    has_ended_well,
    newest_run,
    read_attempt,
    read_attempts,
)
from seed_dist.watch.causes import find_cause, write_page
from seed_dist.watch.slurm import Job, asked, own_job
from seed_dist.watch.verdict import Ending, decide

_TAIL_LINES = 20


def main() -> None:
    args = _parse()
    is_urgent = args.exit_code == EXIT_STOPPED  # the batch system's patience may be nearly over
    job = own_job() if is_urgent else asked(own_job())
    run = args.folder if (args.folder / INCIDENTS).is_dir() else newest_run(args.folder, job.number, job.restart)
    folders = attempt_folders(run) if run is not None else []
    if args.exit_code is None:
        if not folders:
            raise ConfigError([f"{args.folder} has no attempt to tell of; give a run directory like WORK/codebook"])
        print((folders[-1] / PAGE).read_text() if (folders[-1] / PAGE).is_file() else _told(folders[-1], job, 0))
        return
    if folders and not has_ended_well(folders[-1]):
        print(_told(folders[-1], job, args.exit_code), end="")
    restarts = int(job.restart) if job.restart.isdecimal() else 0
    ending = Ending(args.exit_code, job.state, restarts, args.budget)
    verdict = decide(ending, read_attempts(run) if run is not None else [])
    print(f"verdict: {verdict.action} ({verdict.reason})", flush=True)
    sys.exit(verdict.exit_code(ending))


def _told(attempt: Path, job: Job, exit_code: int) -> str:
    """The page; what is new of it is written: the batch system's state, and the log's end when nobody left a word."""
    if has_ended_well(attempt):
        return f"{attempt.parent.parent}: {read_attempt(attempt).outcome}, as it should\n"
    cause = find_cause(attempt)
    state = ", ".join(filter(None, (job.state, f"exit code {exit_code}" if exit_code else "")))
    is_oom = job.state == "OUT_OF_MEMORY"
    cause = replace(cause, batch_state=state, kind="oom" if is_oom else cause.kind)
    if not cause.evidence and job.log is not None and job.log.is_file():
        lines = job.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        cause = replace(cause, evidence="\n".join(["The log's last lines:", *lines]))
    return write_page(attempt, cause)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m seed_dist.watch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="run directory, or the workspace that a job worked in")
    parser.add_argument("--exit-code", type=int, metavar="CODE", help="what the job's command ended with")
    parser.add_argument(
        "--budget", type=int, default=20, metavar="N", help="deaths of a run that are requeued (default %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_command(main))
