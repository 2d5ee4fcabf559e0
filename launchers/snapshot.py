"""A copy of the code for jobs that wait in a queue: what they run is what was there when they were submitted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from seed_dist.errors import SeedDistError


def copy_code(checkout: Path, folder: Path) -> Path:
    """Clone the checkout's last commit into `folder` and lay the changes of its working tree over it; the value is
    `folder`. The copy knows its commit, so that runs can tell what they were trained with.

    Raises SeedDistError where `checkout` is no git repository.
    """
    try:
        _git(checkout, "clone", "--quiet", "--depth=1", f"file://{checkout}", str(folder))
        changed = _git(checkout, "ls-files", "-z", "--modified", "--others", "--exclude-standard").split("\0")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise SeedDistError(
            f"the code in {checkout} cannot be copied for the jobs: {str(reason).strip()}\nThey run a copy that git "
            "makes, so that later changes do not reach them: install git, or use a checkout made with git clone."
        ) from error
    for name in filter(None, changed):
        source, target = checkout / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        else:
            target.unlink(missing_ok=True)
    return folder


def _git(checkout: Path, *words: str) -> str:
    command = ["git", "-C", str(checkout), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
