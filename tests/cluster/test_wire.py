"""What `seed_dist.plan` says that a rank sends, and what leaves its network card."""

from __future__ import annotations

import os
import statistics

import pytest

from benchmarks.wire import Case, measured_bytes
from tests.cluster.sandbox import missing_programs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.mark.skipif(os.geteuid() != 0 or bool(missing_programs()), reason="namespaces need root and iproute2")
@pytest.mark.parametrize("case", [Case(2), Case(3, accumulation=2, setting="reduce_scatter false")])
def test_the_plan_knows_what_zero_2_sends(case: Case) -> None:
    assert statistics.mean(measured_bytes(case)) == pytest.approx(case.theory_bytes(), rel=0.01)
