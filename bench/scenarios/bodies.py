"""Common parts of scenarios with large bodies: peers that stream them, and figures."""

import random
import zlib
from collections.abc import Callable
from pathlib import Path

from bench.load.wrk import Wrk
from bench.origin import streams
from bench.peers import Caddy, Envoy, Fastgw, Haproxy, Nginx, Peer
from bench.scenarios.scenario import (
    CORE_USED,
    CPU_PER_GIB,
    MIB_PER_S,
    RATE,
    Comparison,
    Figure,
    ratio_to,
)

LOADS = Path(streams.__file__).parents[1] / "load"

NGINX = {
    "server": (
        # By default nginx buffers request bodies of more than 16 KiB, and responses to slow clients, in files.
        "client_max_body_size 0; proxy_request_buffering off; client_body_buffer_size 256k;"
        "proxy_max_temp_file_size 0; proxy_buffer_size 16k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;"
    )
}
HAPROXY = {
    "global": "tune.bufsize 65536",
    "defaults": "option splice-auto",
}

PEERS: tuple[Peer, ...] = (Fastgw(), Nginx(fill=NGINX), Haproxy(fill=HAPROXY), Envoy(), Caddy())

USER_PER_GIB = Figure("user", lambda s: s.user_s / s.figures["bytes"] * (1 << 30))
SYSTEM_PER_GIB = Figure("system", lambda s: s.system_s / s.figures["bytes"] * (1 << 30))

PER_GIB: tuple[Figure | Comparison, ...] = (
    CPU_PER_GIB,
    USER_PER_GIB,
    SYSTEM_PER_GIB,
    ratio_to("nginx", CPU_PER_GIB),
    RATE,
    MIB_PER_S,
    CORE_USED,
)


def posting(name: str, connections: int, size: int, count: int) -> Wrk:
    """Return `count` different POST requests, with the bodies written by `different`."""
    arguments: dict[str, str | int] = {"bodies": "@bodies", "answers": "@answers", "size": size, "count": count}
    return Wrk(name, connections, script=LOADS / "post.lua", arguments=arguments, body_bytes=size)


def different(count: int, size: int) -> Callable[[Path], None]:
    """Write random bodies, and the origin's responses to them."""

    def prepare(folder: Path) -> None:
        chance = random.Random(42)
        bodies = [chance.randbytes(size) for _ in range(count)]
        (folder / "bodies").write_bytes(b"".join(bodies))
        (folder / "answers").write_text("".join(f"{streams.summed_up(size, zlib.crc32(body))}\n" for body in bodies))

    return prepare
