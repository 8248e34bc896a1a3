"""One long stream after another on one connection: 1 GiB exceeds wrk's memory. Every byte is checked."""

import http.client
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache

from bench.load.load import Environment
from bench.origin.streams import PATTERN, summed_up
from bench.peers.peer import HOST, Running
from bench.samples import Told

READ_SIZE = 1 << 18
WRITE_SIZE = 1 << 18
TIMEOUT = 60.0  # seconds for the next bytes


class Direction(Enum):
    DOWN = "download"
    UP = "upload"


@dataclass(frozen=True)
class Stream:
    """One stream per round, of any duration. Times are those of the whole stream, including the head."""

    name: str
    size: int
    direction: Direction

    @property
    def cut_off(self) -> int:
        return 0

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told:
        client = http.client.HTTPConnection("127.0.0.1", running.port, timeout=TIMEOUT)
        begun = time.monotonic()
        try:
            faults = (_download if self.direction is Direction.DOWN else _upload)(client, self.size)
        except (OSError, http.client.HTTPException) as error:
            faults = {f"failed: {error}": 1}
        finally:
            client.close()
        return Told(1, time.monotonic() - begun, {"bytes": self.size}, faults)


def _download(client: http.client.HTTPConnection, size: int) -> dict[str, int]:
    client.request("GET", f"/svc7/stream/{size}?from=0", headers={"Host": HOST})
    response = client.getresponse()
    length = crc32 = 0
    block = bytearray(READ_SIZE)
    while count := response.readinto(block):
        crc32 = zlib.crc32(memoryview(block)[:count], crc32)
        length += count
    wrong = (length, crc32) != (size, sum_of(size))
    return {"wrong status": response.status != 200, "wrong body": wrong}


def _upload(client: http.client.HTTPConnection, size: int) -> dict[str, int]:
    fields = {"Host": HOST, "Content-Length": str(size), "Content-Type": "application/octet-stream"}
    client.request("POST", "/svc7/v1/files", body=blocks(size), headers=fields)
    response = client.getresponse()
    wrong = response.read() != summed_up(size, sum_of(size)).encode()
    return {"wrong status": response.status != 200, "wrong body": wrong}


def blocks(size: int) -> Iterator[memoryview]:
    """Yield the stream of this length, in the pieces in which it is written."""
    pattern = memoryview(PATTERN)
    for place in range(0, size, WRITE_SIZE):
        start = place % len(PATTERN)
        yield pattern[start : start + min(WRITE_SIZE, size - place)]


@cache
def sum_of(size: int) -> int:
    """Return the CRC-32 of that stream."""
    crc32 = 0
    for block in blocks(size):
        crc32 = zlib.crc32(block, crc32)
    return crc32
