"""What the server of `tests/forked.py` imports before it forks: the heavy libraries.
Which faults are planned is told to each rank, because `seed_dist.faults` is imported by then."""

import importlib
import os
import threading

os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", HF_HUB_OFFLINE="1")

from seed_dist.dist import engine

engine._import_deepspeed()
engine._load_fused_adam()
importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")  # imported when an engine is made; loads inductor
assert threading.active_count() == 1, threading.enumerate()
