"""Turns under a limit."""

from embmerge.remote.pace import Pace


def test_a_pace_gives_turns():
    now = [0.0]
    pace = Pace(100, clock=lambda: now[0])
    assert [pace.reserve(50) for _ in range(3)] == [0.0, 0.5, 1.0]
    now[0] = 10
    assert pace.reserve(50) == 0.0


def test_no_limit_lets_everything_pass():
    assert Pace(None).reserve(1 << 40) == 0.0
    assert Pace(None).largest(5) == 5


def test_a_low_pace_asks_for_little_at_once():
    assert Pace(100_000).largest(1 << 20) == 10_000


def test_a_pace_is_used_up_until_the_next_turn_is_free():
    now = [0.0]
    pace = Pace(100, clock=lambda: now[0])
    assert not pace.used_up
    pace.reserve(50)
    assert pace.used_up
    now[0] = 0.5
    assert not pace.used_up


def test_without_a_limit_nothing_is_used_up():
    pace = Pace(None)
    pace.reserve(1 << 40)
    assert not pace.used_up
