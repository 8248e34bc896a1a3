"""HAProxy: with a JSON log through its standard output into a file, and without any."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.peer import ROUTES, Place, Running, version_told
from bench.ports import free_port, wait_until_open
from bench.processes import pinned
from bench.templates import render

LOG_FORMAT = (
    'log-format \'{"time":"%Ts.%ms","client":"%ci","method":"%HM","path":"%[capture.req.uri,json]",'
    '"host":"%[capture.req.hdr(0),json]","status":%ST,"bytes":%B,"duration_ms":%Ta,"upstream":"%si:%sp",'
    '"upstream_ms":%Tr,"agent":"%[capture.req.hdr(1),json]","request_id":"%[capture.req.hdr(2),json]"}\''
)

CAPTURES = "\n    ".join(
    f"http-request capture req.hdr({name}) len {length}"
    for name, length in {"Host": 64, "User-Agent": 200, "X-Request-Id": 64}.items()
)


class Haproxy:
    def __init__(self, *, logs: bool) -> None:
        self.logs = logs
        self.name = "haproxy" if logs else "haproxy (no log)"

    def version(self) -> str | None:
        return version_told("haproxy", "-v")

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        port = free_port()
        routes = place.folder / "routes.map"
        routes.write_text("".join(f"/{route}/ origin\n" for route in ROUTES))
        output = place.folder / "access.log"
        config = render(
            Path(__file__).with_name("haproxy.cfg"),
            place.folder / "haproxy.cfg",
            port=port,
            origin_port=place.origin_port,
            routes=routes,
            log_to="log stdout format raw local0 info" if self.logs else "",
            log_format=f"log global\n    {LOG_FORMAT}" if self.logs else "",
            captures=CAPTURES if self.logs else "",
        )
        with pinned(["haproxy", "-db", "-f", config], place.core, output) as program:
            wait_until_open(port, program)
            yield Running(program, port, output if self.logs else None)
