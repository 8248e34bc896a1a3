"""Compiled `SharedStore.find` for the ordinary case."""

class Search:
    def __init__(
        self,
        memory: memoryview,
        secrets: tuple[int, ...],
        entries: int,
        cells: int,
        states: int,
        data: int,
        segment: int,
        segments: int,
        pins: int,
    ) -> None: ...
    def find(self, key: bytes, /) -> int: ...
