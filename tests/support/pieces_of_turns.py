"""The extension `pieces_of_turns`: a filter that notes the pieces of responses that it gets in a turn of the loop."""

from __future__ import annotations

from pathlib import Path

import fastgw
from tests.support.extension import install

FILTER = '''
"""A filter of a test."""

import asyncio

from fastgw.filters.api import Env, Exchange, Filter, Hooks, Phase


class PiecesOfTurns(Filter, name="pieces_of_turns", phase=Phase.TRANSFORM):
    """Write a line for each piece of a response before it is passed on: the number of the turn of the event loop that
    has brought it, counted over all turns with pieces, and its length.
    """

    notes: str

    def build(self, env: Env) -> Hooks:
        turn = 0
        has_pieces = False

        def end_turn() -> None:
            nonlocal turn, has_pieces
            turn, has_pieces = turn + 1, False

        def response_body(exchange: Exchange, payload: bytes) -> None:
            nonlocal has_pieces
            if not has_pieces:
                has_pieces = True
                asyncio.get_running_loop().call_soon(end_turn)
            with open(self.notes, "a") as notes:
                print(turn, len(payload), file=notes)

        return Hooks(response_body=response_body)
'''


class PiecesOfTurns:
    """The extension, installed in a folder of Python's path, and its notes."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._notes = folder, folder / "turns"
        install(folder, "pieces_of_turns", {"turns.py": FILTER}, {"pieces_of_turns": "turns:PiecesOfTurns"})

    @property
    def settings(self) -> dict[str, str]:
        return {"notes": str(self._notes)}

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a gateway that has the extension."""
        return {"PYTHONPATH": f"{self._folder}:{Path(fastgw.__file__).parents[1]}"}

    def clear(self) -> None:
        self._notes.write_text("")

    def read(self) -> list[list[int]]:
        """Return the lengths of the pieces of each turn that had any."""
        turns: dict[str, list[int]] = {}
        for line in self._notes.read_text().splitlines():
            turn, length = line.split()
            turns.setdefault(turn, []).append(int(length))
        return [*turns.values()]
