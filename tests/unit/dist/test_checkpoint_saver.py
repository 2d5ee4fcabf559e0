from __future__ import annotations
from pathlib import Path
from tests.forked import values, world
import time

def _first(comm, folder):
    from tests.toy_engine import everything, save_now, toy_engine, toy_saver, toy_steps
    t=time.time()
    engine = toy_engine(comm)
    t1=time.time()-t
    saver = toy_saver(folder, engine)
    toy_steps(engine, 0, 3)
    return t1, save_now(saver, 3)

def test_x(tmp_path: Path) -> None:
    for size in (2, 1, 2):
        t=time.time()
        print(values(world(_first, size, tmp_path, tmp_path/"c")), time.time()-t)
    e = world(_first, 2, tmp_path, tmp_path/"c", fault="checkpoint.in_file:1:3:kill")
    print(e, time.time()-t)
    assert 0
