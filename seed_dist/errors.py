"""Errors that a user or a disk can cause. Each names option or file, value found, value allowed and next action.

Commands turn them into one short message and an exit code (`seed_dist.cli.run_command`); anything else is a defect and
keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class SeedDistError(Exception):
    """Base of all expected errors; `exit_code` is what a command returns for it."""

    exit_code = 1


class ConfigError(SeedDistError):
    """Wrong options or recipe values; carries all problems found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{len(self.problems)} configuration problem(s):\n{lines}")


class DataError(SeedDistError):
    """Input data or a data set on disk that cannot be used as it is."""

    exit_code = 3


class UnavailableError(DataError):
    """Something that a measurement needs is not there; `command` makes it, where one does."""

    def __init__(self, why: str, command: str = "") -> None:
        self.why, self.command = why, command
        super().__init__(f"{why} Make it with: {command}" if command else why)


class MismatchError(SeedDistError):
    """Two artefacts that must belong together do not: both values are shown."""

    exit_code = 4

    def __init__(self, what: str, found: object, expected: object, action: str) -> None:
        self.what, self.found, self.expected, self.action = what, found, expected, action
        super().__init__(f"{what} is {found!r}, but {expected!r} is needed. {action}")


class CheckpointError(SeedDistError):
    """Checkpoints exist but none can be loaded, or one could not be written."""

    exit_code = 5


class LockedError(SeedDistError):
    """Another live process owns the folder."""

    exit_code = 6


class TrainingError(SeedDistError):
    """Training cannot go on: non-finite values, disagreement between ranks."""

    exit_code = 7


class TrackingError(SeedDistError):
    """MLflow did not take what it was sent. Nothing is lost: the journal has it."""

    exit_code = 9
