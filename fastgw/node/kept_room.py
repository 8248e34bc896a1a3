"""Room for request bodies that are kept to be sent again, in one process: a bound on all of them together."""

from typing import Final, final

MOST_BYTES: Final = 64 * 1024**2
"""For one process."""


@final
class KeptRoom:
    """What all bodies may take together, in bytes, that are kept beyond what each may have anyhow."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int = MOST_BYTES) -> None:
        self.limit = limit
        self.taken = 0

    def __repr__(self) -> str:
        return f"<KeptRoom {self.taken} of {self.limit} bytes>"

    def take(self, count: int) -> bool:
        """Take so many bytes, to be given back by who takes them. False: there are not so many."""
        if self.taken + count > self.limit:
            return False
        self.taken += count
        return True

    def give_back(self, count: int) -> None:
        """Of what was taken."""
        self.taken -= count
