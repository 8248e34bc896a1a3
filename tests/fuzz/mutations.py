"""Bytes broken without knowing what they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

INTERESTING = b'\x00\x01\t\n\r \x1f!"#%+,-./09:;=@AZ[_`az{|~\x7f\x80\xc0\xff'


def flip_a_bit(random: Random, wire: bytearray, pool: Sequence[bytes]) -> None:
    wire[random.randrange(len(wire))] ^= 1 << random.randrange(8)


def set_a_byte(random: Random, wire: bytearray, pool: Sequence[bytes]) -> None:
    wire[random.randrange(len(wire))] = random.choice(INTERESTING)


def insert(random: Random, wire: bytearray, pool: Sequence[bytes]) -> None:
    at = random.randint(0, len(wire))
    wire[at:at] = bytes(random.choices(INTERESTING, k=random.choice((1, 1, 2, 3, 16))))


def delete(random: Random, wire: bytearray, pool: Sequence[bytes]) -> None:
    at = random.randrange(len(wire))
    del wire[at : at + random.choice((1, 1, 2, 4, 16, 40))]


def repeat(random: Random, wire: bytearray, pool: Sequence[bytes]) -> None:
    at = random.randrange(len(wire))
    piece = wire[at : at + random.choice((1, 2, 8, 40))]
    wire[at:at] = piece * random.choice((1, 1, 2, 20))


def cut_off(random: Random, wire: bytearray, pool: Sequence[bytes]) -> None:
    del wire[random.randrange(len(wire)) :]


def splice(random: Random, wire: bytearray, pool: Sequence[bytes]) -> None:
    """Go on as another one does, from anywhere or from the end of a line."""
    other = random.choice(pool)
    here, there = random.randrange(len(wire)), random.randrange(len(other) + 1)
    if random.random() < 0.6:
        here, there = wire.find(b"\n", here) + 1, other.find(b"\n", there) + 1
    wire[here:] = other[there:]


def swap_lines(random: Random, wire: bytearray, pool: Sequence[bytes]) -> None:
    lines = wire.split(b"\r\n")
    one, two = random.randrange(len(lines)), random.randrange(len(lines))
    lines[one], lines[two] = lines[two], lines[one]
    wire[:] = b"\r\n".join(lines)


MUTATIONS: list[Callable[[Random, bytearray, Sequence[bytes]], None]] = [
    *(flip_a_bit, set_a_byte, insert, delete, repeat, cut_off, splice, splice, swap_lines)
]


def mutated(random: Random, pool: Sequence[bytes]) -> bytes:
    """One of the pool after one to four mutations."""
    wire = bytearray(random.choice(pool))
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        if wire:
            random.choice(MUTATIONS)(random, wire, pool)
    return bytes(wire)


def noise(random: Random) -> bytes:
    return random.randbytes(random.choice((0, 1, 2, 3, 8, 40, 200)))
