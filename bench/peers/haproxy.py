"""HAProxy, with a JSON log through standard output into a file, or without a log."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.peer import HERE, Place, Running, routes, version_told
from bench.peers.programs import find_program
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


@dataclass(frozen=True)
class Haproxy:
    name: str = "haproxy"
    logs: bool = True
    routes: int = 100
    workers: int = 1
    template: Path = HERE / "haproxy.cfg"
    log_format: str = LOG_FORMAT
    fill: Mapping[str, str] = field(default_factory=dict)
    """Fragments of this scenario by place: lines of `global`, `defaults` and `frontend`, words of `bind`, `sections`;
    `scheme` instead of http."""

    def version(self) -> str | None:
        haproxy = find_program("haproxy")
        return haproxy.version(version_told(*haproxy.command, "-v"))

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        port = free_port()
        table = place.folder / "routes.map"
        table.write_text("".join(f"/{route}/ origin\n" for route in routes(self.routes)))
        output = place.folder / "access.log"
        added = dict.fromkeys(("global", "defaults", "frontend", "bind", "sections"), "")
        added |= {"scheme": "http", **self.fill}
        config = render(
            self.template,
            place.folder / "haproxy.cfg",
            port=port,
            origin_port=place.origin_port,
            workers=self.workers,
            routes=table,
            log_to="log stdout format raw local0 info" if self.logs else "",
            log_format=f"log global\n    {self.log_format}" if self.logs else "",
            captures=CAPTURES if self.logs else "",
            **added,
        )
        with pinned([*find_program("haproxy").command, "-db", "-f", config], place.cores, output) as program:
            wait_until_open(port, program)
            yield Running(program, port, output if self.logs else None)
