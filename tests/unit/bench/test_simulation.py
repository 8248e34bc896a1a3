"""The simulation of overload, shortened: what limits that adapt, and retry budgets, are worth."""

from dataclasses import replace

import pytest

from bench.simulation.scenes import ADAPTIVE, BUDGET, OVERLOAD, STORM
from bench.simulation.world import Policy, play

NOTHING = Policy("nothing")
SHORT = replace(OVERLOAD, seconds=25.0)


@pytest.mark.extended
@pytest.mark.parametrize("seed", [1, 2])
def test_at_ten_times_the_capacity_a_limit_that_adapts_keeps_the_service_at_work(seed):
    """Without it, what the service works on has been given up when its turn comes, for good."""
    assert play(SHORT, ADAPTIVE, seed).goodput(15.0, 25.0) >= 0.9
    assert play(SHORT, NOTHING, seed).goodput(15.0, 25.0) < 0.05


@pytest.mark.extended
def test_a_storm_of_retries_ends_with_its_cause():
    assert play(replace(STORM, seconds=30.0), NOTHING, 1).goodput(20.0, 30.0) < 0.05
    for policy in (ADAPTIVE, BUDGET, replace(ADAPTIVE, budget=0.2)):
        assert play(replace(STORM, seconds=30.0), policy, 1).goodput(25.0, 30.0) >= 0.9 * 0.6, policy.name


@pytest.mark.extended
def test_the_same_seed_gives_the_same_course():
    one, other = (play(SHORT, ADAPTIVE, 5) for _ in range(2))
    assert (one.good, one.shed, one.limits) == (other.good, other.shed, other.limits)
