"""Limits that requests and connections take permits of: of the node in shared memory, or of a single worker."""

from typing import TypeAlias, final

from msgspec import Struct

from fastgw.shm.node_limits import NodeLimit


@final
class LocalLimit(Struct, eq=False):
    """Limit of a single worker, or of a program without any, with the interface of `NodeLimit`."""

    most: int
    _taken: int = 0

    def try_take(self, beyond: int = 0) -> bool:
        if self._taken >= self.most + beyond:
            return False
        self._taken += 1
        return True

    def give_back(self) -> None:
        self._taken -= 1

    def vacant(self) -> int:
        return self.most - self._taken


PoolLimit: TypeAlias = NodeLimit | LocalLimit
