"""Processes beside a training that can neither stop nor slow it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_NICENESS = 19


def start_side_process(
    module: str, arguments: Sequence[str], log: Path, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes] | None:
    """`python -m module arguments`, detached, at the lowest priority, its messages in the file `log`.

    When it cannot be started that is noted there and nothing else happens: the value is None.
    """
    command = ["nice", "-n", str(_NICENESS), sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        with log.open("ab") as messages:
            return subprocess.Popen(
                command,
                stdin=stdin,
                stdout=messages,
                stderr=messages,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        log.write_text(f"not started: {error}\n")
        return None
