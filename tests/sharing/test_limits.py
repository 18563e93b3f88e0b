"""A bucket: a burst at once, then as many as refill, each name for itself."""

import pytest

from kit.sharing.limits import Limit


def test_a_burst_and_then_the_rate():
    now = [100.0]
    limit = Limit(per_s=2.0, burst=3, clock=lambda: now[0])
    assert [limit.wait_s("ana") for _ in range(3)] == [0, 0, 0]
    assert limit.wait_s("ana") == pytest.approx(0.5)
    assert limit.wait_s("ben") == 0
    now[0] += 0.5
    assert limit.wait_s("ana") == 0
    assert limit.wait_s("ana") > 0
    now[0] += 60
    assert [limit.wait_s("ana") > 0 for _ in range(4)] == [False, False, False, True]
