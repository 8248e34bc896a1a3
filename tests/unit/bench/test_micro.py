"""Rooms of the microbenchmarks: each does its work, or what is timed were an error."""

import importlib

import pytest

from bench.micro.__main__ import MODULES

BODIES = ("mapping", "validation")
"""Modules of functions on bodies, each of which has to accept all its inputs."""


@pytest.mark.extended
@pytest.mark.parametrize("name", MODULES)
def test_each_room_can_be_entered(name: str) -> None:
    """One call each, and one for each input of `BODIES`: the budget of a room that has broken would hold nothing."""
    rooms = 0
    for room in importlib.import_module(f"bench.micro.{name}").rooms():
        rooms += 1
        if name in BODIES:
            for each in room.inputs:
                room.call(each)
        else:
            room.calls(1)()
    assert rooms
