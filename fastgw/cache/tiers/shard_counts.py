"""Counts of the files of a disk tier, in the shared memory of its store."""

from typing import Final, final

from fastgw.cache.shared.layout import DISK_COUNTS, DISK_SHARD, CacheMemory

SHARDS: Final = 256
_OBJECTS_AT: Final = 44
_SIZE: Final = (1 << _OBJECTS_AT) - 1


@final
class ShardCounts:
    """Counts of the files in each directory, over all processes. A word has the number of files and their bytes; the
    lock of the directory is held to write.
    """

    def __init__(self, memory: CacheMemory) -> None:
        self._memory, self._words = memory, memory.words

    def add_file(self, shard: int, objects: int, size: int) -> None:
        """Add to the counts of a directory."""
        word = self._words[DISK_COUNTS + shard]
        self.set_shard(shard, (word >> _OBJECTS_AT) + objects, (word & _SIZE) + size)

    def set_shard(self, shard: int, objects: int, size: int) -> None:
        """Set the counts of a directory."""
        self._words[DISK_COUNTS + shard] = max(0, objects) << _OBJECTS_AT | max(0, size)

    def next_shard(self) -> int:
        """Return a number for the turns over all directories."""
        return self._memory.add(DISK_SHARD)

    @property
    def objects(self) -> int:
        """Number of all files."""
        return sum(word >> _OBJECTS_AT for word in self._shards())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(word & _SIZE for word in self._shards())

    def _shards(self) -> list[int]:
        return self._words[DISK_COUNTS : DISK_COUNTS + SHARDS].tolist()
