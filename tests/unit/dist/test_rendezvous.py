"""Ranks of one attempt meet, past foreign programs at their ports, and nobody of another attempt is among them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from seed_dist.dist.rendezvous import PORTS, attempt_name, meet
from seed_dist.errors import TrainingError
from seed_dist.topology import World

HERE = "127.0.0.1"
TIMEOUT_S = 30.0


@pytest.fixture
def port() -> Iterator[int]:
    """The first of a row of free ports, which a foreign program holds: it takes connections and never answers."""
    for first in range(15000, 25000, PORTS):
        try:
            listeners = [socket.create_server((HERE, number)) for number in range(first, first + PORTS)]
        except OSError:
            continue
        for listener in listeners[1:]:
            listener.close()
        with closing(listeners[0]):
            yield first
        return


def test_ranks_meet_at_the_next_port_and_a_stale_rank_is_left_out(port: int) -> None:
    with ThreadPoolExecutor(3) as pool:
        stale = pool.submit(meet, World(1, 2, 1, 2), HERE, port, "7.0.0", 8.0)
        ranks = [pool.submit(meet, World(rank, 2, rank, 2), HERE, port, "7.1.0", TIMEOUT_S) for rank in (1, 0)]
        stores = [rank.result() for rank in ranks]
        stores[0].set("key", "value")
        assert stores[1].get("key") == b"value"
        with pytest.raises(TrainingError, match=r"found no rank 0 of attempt 7\.0\.0.*7\.1\.0"):
            stale.result()


def test_attempts_have_names_of_their_own() -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    names = {attempt_name(env) for env in (job, job | {"SLURM_RESTART_COUNT": "1"}, job | {"SLURM_STEP_ID": "1"}, {})}
    assert len(names) == 4
