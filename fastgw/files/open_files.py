"""Cache of open files, as nginx's `open_file_cache`: a file in it is served without a look at the disk."""

from collections import OrderedDict
from typing import Final, NamedTuple, final

from fastgw.exchange.ready_answer import ReadyReply
from fastgw.exchange.sent_fields import SentFields
from fastgw.files.request_path import FilePath
from fastgw.files.resources import FileResource

VALID_S: Final = 1.0
"""Seconds for which a file is served as it was found."""
UNUSED_S: Final = 10.0
"""Seconds after which a file that is not requested is closed."""
MAX_FILES: Final = 1024
MAX_DESCRIPTORS: Final = 256
MAX_CONTENT_BYTES: Final = 16 * 1024 * 1024
"""Bounds of the cache of open files, for each route and worker."""


class ReadyFile(NamedTuple):
    """Ready responses of one representation of a file."""

    etags: tuple[bytes, bytes]
    """Entity tag of the file, and its other form: weak or strong."""
    whole: ReadyReply
    not_modified: ReadyReply


class HeldFile:
    """A file in the cache. `valid_until`, `used_at`: monotonic seconds."""

    __slots__ = ("ready", "resource", "used_at", "valid_until")

    def __init__(self, resource: FileResource, now: float) -> None:
        self.resource = resource
        self.used_at, self.valid_until = now, now + VALID_S
        self.ready: dict[tuple[SentFields, bytes], ReadyFile] = {}
        """Ready responses by the headers that filters change, and `Accept-Encoding`; empty once the file was removed
        from the cache.
        """


_GONE: Final = FileResource(b"", ())


@final
class OpenFileCache:
    """Files that were found, the least recently used first. Of one event loop."""

    def __init__(self) -> None:
        self._held: OrderedDict[FilePath, HeldFile] = OrderedDict()
        self.descriptors = self.content_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, path: FilePath, now: float) -> HeldFile | None:
        """Return a file that was found less than `VALID_S` ago. `now`: monotonic seconds."""
        held = self._held.get(path)
        if held is None or now >= held.valid_until:
            return None
        held.used_at = now
        self._held.move_to_end(path)
        return held

    def put_file(self, path: FilePath, resource: FileResource, now: float) -> None:
        self.remove(path)
        self._held[path] = HeldFile(resource, now)
        self.descriptors += resource.descriptors
        self.content_bytes += resource.content_bytes
        while (
            len(self._held) > MAX_FILES or self.descriptors > MAX_DESCRIPTORS or self.content_bytes > MAX_CONTENT_BYTES
        ):
            self.remove(next(iter(self._held)))

    def remove(self, path: FilePath) -> None:
        held = self._held.pop(path, None)
        if held is not None:
            self.descriptors -= held.resource.descriptors
            self.content_bytes -= held.resource.content_bytes
            held.ready.clear()
            held.resource, held.valid_until = _GONE, 0.0  # ready responses may still refer to it

    def remove_unused(self, now: float) -> None:
        while self._held:
            path, held = next(iter(self._held.items()))
            if now - held.used_at < UNUSED_S:
                return
            self.remove(path)
