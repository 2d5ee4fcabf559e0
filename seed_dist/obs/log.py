"""Log lines on standard error: one logger, one format, quiet on all ranks but the first."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from seed_dist.redaction import redact

_NAME = "seed_dist"


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever standard error is now, after ending a progress line that stands there."""

    unfinished_line = False

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        if _Handler.unfinished_line:
            self.stream.write("\n")
            _Handler.unfinished_line = False
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def get_logger() -> logging.Logger:
    """The program's logger; works without any set-up."""
    logger = logging.getLogger(_NAME)
    if not logger.handlers:
        handler = _Handler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger


def quieten_other_ranks(rank: int) -> None:
    """Only rank 0 informs; every rank still warns. Call once, when the rank is known."""
    logger = get_logger()
    if rank:
        logger.setLevel(logging.WARNING)
        logger.handlers[0].setFormatter(logging.Formatter(f"%(asctime)s rank {rank}: %(message)s", "%H:%M:%S"))


def quieten_libraries() -> None:
    """Third-party chatter that says nothing about the user's run. Call before importing the heavy libraries."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("DeepSpeed", "httpx", "urllib3", "filelock"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", module=r"(torch|deepspeed|transformers|pydantic)(\.|$)", category=category)


def mark_unfinished_line() -> None:
    """The progress display has left the cursor in the middle of a line; the next log line must start a new one."""
    _Handler.unfinished_line = True
