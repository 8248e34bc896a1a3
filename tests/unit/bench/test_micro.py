"""Rooms of the microbenchmarks: each does its work, or what is timed were an error."""

import pytest

from bench.micro import mapping, validation
from bench.micro.timing import Room

ROOMS = [*mapping.rooms(), *validation.rooms()]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_of_bodies_does_its_work(room: Room) -> None:
    for each in room.inputs:
        room.call(each)
