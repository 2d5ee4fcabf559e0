"""What a rank of the training imports, which takes most of its start; loaded by the fork server of `forked`."""

from __future__ import annotations

import os

os.environ["DS_ACCELERATOR"] = "cpu"

from seed_dist.dist.engine import _import_deepspeed

_import_deepspeed()
