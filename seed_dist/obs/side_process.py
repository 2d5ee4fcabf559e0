"""Processes beside a training that can neither stop nor slow it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_NICENESS = 19


def start_side_process(
    module: str,
    arguments: Sequence[str],
    log: Path,
    stdin: int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes] | None:
    """`python -m module arguments`, detached, at the lowest priority, its messages in the file `log`.

    `environment` is added to this process's own. When it cannot be started that is noted there, if the disk lets it,
    and nothing else happens: the value is None.
    """
    command = ["nice", "-n", str(_NICENESS), sys.executable, "-m", module, *arguments]
    try:
        with log.open("ab") as messages:
            return subprocess.Popen(
                command,
                stdin=stdin,
                stdout=messages,
                stderr=messages,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
                start_new_session=True,
            )
    except OSError as error:
        with suppress(OSError), log.open("a") as messages:  # a full disk is not worth a training
            messages.write(f"{module} not started: {error}\n")
        return None
