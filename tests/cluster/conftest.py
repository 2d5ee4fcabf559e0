"""One cluster for the tests of a file; without root or SLURM they are skipped, and the reason is printed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, reason_for_no_cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = reason_for_no_cluster()
    if reason:
        pytest.skip(f"no virtual SLURM cluster: {reason}")
    with Cluster(nodes=3) as running:
        yield running
