from typing import Protocol

class Swap(Protocol):
    def __call__(self, at: int, seen: int, wanted: int, /) -> bool:
        """Replace the word at this position by `wanted` if it is `seen`; return whether it was."""

class Words:
    """Words of shared memory: writable, aligned on 8 bytes."""

    def __init__(self, memory: memoryview) -> None: ...
    def swap(self, at: int, seen: int, wanted: int, /) -> bool:
        """Replace the word at this position by `wanted` if it is `seen`; return whether it was. Raises `IndexError`."""

    def spend(
        self, at: int, high: int, low: int, period: int, begins: int, until: int, cost: int, limit: int, mark: int, /
    ) -> int:
        """Spend from the slot of a quota table at this position: see `QuotaTable.spend`. Raises `IndexError`."""
