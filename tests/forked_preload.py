"""What the server of `tests/forked.py` imports before it forks: the heavy libraries, and of the package nothing that
reads the environment."""

import importlib
import os
import sys
import threading

os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", HF_HUB_OFFLINE="1")

from seed_dist.dist import engine

engine._import_deepspeed()
engine._load_fused_adam()
importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")  # imported when an engine is made; loads inductor
assert "seed_dist.faults" not in sys.modules
assert threading.active_count() == 1, threading.enumerate()
