"""The timer wheel against a model that looks at every deadline, and what it does when an expiry fails."""

from math import inf

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.eventloop.timer_wheel import TICK, Timed, Wheel

BEGIN = 1000.0
AFTER = st.floats(-0.1, 2.0)  # seconds from now until a deadline, which may have passed already


class Bell(Timed):
    """Notes when it rang. `again`: seconds after which it wants to ring once more."""

    def __init__(self, wheel: Wheel) -> None:
        super().__init__()
        self.wheel = wheel
        self.rang: list[float] = []
        self.again: float | None = None
        self.set_at = BEGIN

    def set(self, now: float, after: float) -> None:
        self.set_at = now
        self.wheel.watch(self, now + after)

    def expire(self, now: float) -> None:
        self.rang.append(now)
        if self.again is not None:
            self.set(now, self.again)
            self.again = None


class Broken(Timed):
    def expire(self, now: float) -> None:
        raise ZeroDivisionError


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("watch"), st.integers(0, 3), AFTER),
        st.tuples(st.just("postpone"), st.integers(0, 3), st.floats(0.0, 2.0)),
        st.tuples(st.just("clear"), st.integers(0, 3), st.just(0.0)),
        st.tuples(st.just("drop"), st.integers(0, 3), st.just(0.0)),
        st.tuples(st.just("repeat"), st.integers(0, 3), AFTER),
        st.tuples(st.just("advance"), st.just(0), st.floats(0.0, 0.6)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(OPERATIONS)
@example([("watch", 0, -0.1), ("advance", 0, 0.0)])
def test_each_deadline_rings_once_and_within_two_ticks(operations: list[tuple[str, int, float]]) -> None:
    """Whatever is set, postponed, cleared or set while it rings: never early, never twice, never missed. One that has
    passed when it is set rings within two ticks from then on.
    """
    wheel = Wheel(BEGIN)
    bells = [Bell(wheel) for _ in range(4)]
    now = BEGIN
    for operation, index, seconds in [*operations, ("advance", 0, 3.0), ("advance", 0, 3.0)]:
        bell = bells[index]
        if operation == "watch":
            bell.set(now, seconds)
        elif operation == "postpone" and bell.deadline != inf:
            bell.deadline = max(bell.deadline, now + seconds)  # later, by a plain store
        elif operation == "clear":
            bell.deadline = inf
        elif operation == "drop":
            wheel.drop(bell)
        elif operation == "repeat":
            bell.again = seconds
        elif operation == "advance":
            before, due, now = now, [(bell.deadline, bell.set_at) for bell in bells], now + seconds
            rung = [len(bell.rang) for bell in bells]
            wheel.advance(now)
            for bell, (deadline, set_at), count in zip(bells, due, rung, strict=True):
                fresh = bell.rang[count:]
                if deadline > now:
                    assert fresh == []
                elif max(deadline, set_at) <= now - 2 * TICK:
                    assert fresh[:1] == [now], f"set for {deadline}, looked at in {before}..{now}"
                if fresh:
                    assert deadline <= now
    assert all(bell.deadline == inf for bell in bells)


def test_a_postponed_deadline_is_looked_at_where_it_was_filed_and_not_more_often() -> None:
    """A deadline that moves with every byte costs one look per filing, and the wheel holds it once."""
    wheel = Wheel(BEGIN)
    bell = Bell(wheel)
    wheel.watch(bell, BEGIN + 1)
    for step in range(1, 1000):
        wheel.watch(bell, BEGIN + 1 + step / 1000)
    assert sum(len(slot) for slot in wheel._slots.values()) == 1
    wheel.advance(BEGIN + 1 + TICK)
    assert sum(len(slot) for slot in wheel._slots.values()) == 1
    assert bell.rang == []


def test_what_is_dropped_is_held_no_more_and_does_not_ring() -> None:
    """Also what was filed twice, was due when it was filed, or is dropped while others of its slot ring."""
    wheel = Wheel(BEGIN)
    bells = [Bell(wheel) for _ in range(4)]
    for bell in bells:
        wheel.watch(bell, BEGIN + 60)
    wheel.watch(bells[1], BEGIN + 30)
    wheel.watch(bells[2], BEGIN - 1)
    for bell in bells:
        wheel.drop(bell)
        wheel.drop(bell)
    wheel.advance(BEGIN + 2 * TICK)
    assert not any(wheel._slots.values())
    gone = Bell(wheel)

    class Leaving(Timed):
        def expire(self, now: float) -> None:
            for each in pair:
                wheel.drop(each)

    pair = [Leaving(), Leaving()]
    for each in (*pair, gone):
        wheel.watch(each, BEGIN + 1)
    wheel.drop(gone)
    wheel.watch(gone, BEGIN + 90)
    wheel.advance(BEGIN + 60 + TICK)
    assert [bell.rang for bell in (*bells, gone)] == [[]] * 5
    assert sum(len(slot) for slot in wheel._slots.values()) == 1


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_an_expiry_that_raises_takes_no_other_with_it(broken: int) -> None:
    """A defect in one connection must not end the time of all others: they are looked at by the next `advance`."""
    wheel = Wheel(BEGIN)
    timed: list[Timed] = [Bell(wheel), Bell(wheel), Bell(wheel)]
    timed[broken] = Broken()
    for each in timed:
        wheel.watch(each, BEGIN + 1)
    with pytest.raises(ZeroDivisionError):
        wheel.advance(BEGIN + 1 + 2 * TICK)
    wheel.advance(BEGIN + 1 + 4 * TICK)
    assert all(len(bell.rang) == 1 for bell in timed if isinstance(bell, Bell))
