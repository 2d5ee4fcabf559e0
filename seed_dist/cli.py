"""How a command ends: expected errors as one short message and an exit code, defects with their traceback."""

from __future__ import annotations

import errno
import logging
import os
import select
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from seed_dist.errors import DataError, SeedDistError
from seed_dist.redaction import redact

EXIT_DISK = 8
# sysexits.h EX_TEMPFAIL: asked to stop, everything is saved, try again. Batch scripts (slurm/common.sh) requeue on it.
EXIT_STOPPED = 75
EXIT_INTERRUPTED = 130
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES)
_MISPLACED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


def end_process(main: Callable[[], None]) -> NoReturn:
    """Run a command's main function and end the process with its exit code; once torch is loaded, without taking the
    interpreter apart.

    For commands that talk to other ranks. A training that had saved and closed its process group was once aborted at
    exit ("terminate called without an active exception"). The likely cause: a thread of gloo that lets go of the last
    collective's tensors while the interpreter is being taken apart can never get its lock again and is ended by force.
    """
    code: object = 1
    try:
        code = run_command(main)
    except SystemExit as leave:
        code = leave.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - a defect: shown as the interpreter would have shown it
        traceback.print_exc()
    if "torch" not in sys.modules:
        sys.exit(code)  # type: ignore[arg-type]
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def run_command(main: Callable[[], None]) -> int:
    """Run a command's main function; the value is the exit code for `sys.exit`."""
    try:
        main()
        sys.stdout.flush()
    except SeedDistError as error:
        print(redact(f"error: {error}"), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        if not _is_unread(sys.stdout.fileno()):
            raise
        # `| head` has seen enough; the interpreter's own last flush must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if (told := _told(error)) is None:
            raise
        code, message = told
        print(f"error: {message}", file=sys.stderr)
        return code
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on from the last finished piece.", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _told(error: OSError) -> tuple[int, str] | None:
    """Exit code and words for what a path or a disk can cause; None for all else."""
    if error.errno in _MISPLACED and error.filename:
        path = error.filename2 or error.filename
        return DataError.exit_code, (
            f"{path}: {error.strerror}. A file stands where a folder is needed, or a folder where a file is; move it "
            "away, or give another path."
        )
    if error.errno in _REFUSED:
        place = f" ({error.filename})" if error.filename else ""
        return EXIT_DISK, (
            f"the disk refused a write or read: {error.strerror}{place}. What was finished is intact; free or mend the "
            "disk and run the same command again."
        )
    return None


def _is_unread(descriptor: int) -> bool:
    """Whether nobody is left to read from the pipe that is written to."""
    poll = select.poll()
    poll.register(descriptor, 0)  # errors are told unasked
    return any(event & select.POLLERR for _, event in poll.poll(0))
