"""Compiled `rate_limit_table`."""

from collections.abc import Callable

class Memory:
    def __init__(self, memory: memoryview, head: int, own: int, overflow: int) -> None: ...

class Limit:
    def __init__(
        self,
        memory: Memory,
        identity: int,
        limit: int,
        step: int,
        window: int,
        is_bucket: bool,
        most: int,
        name: bytes,
    ) -> None: ...
    @property
    def renewed_at(self) -> int: ...
    def spend(self, key: bytes, cost: int, now: int) -> float: ...
    def charge(self, key: bytes, cost: int, now: int) -> None: ...
    def refund(self, key: bytes, cost: int, spent_at: int, clock: Callable[[], int]) -> None: ...
    def remaining(self, key: bytes, now: int) -> tuple[int, float]: ...
