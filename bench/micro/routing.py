"""Routing: a look-up costs the same with 10 and with 10,000 routes. Alone: `python -m bench.micro.routing`."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.micro.timing import Room, time_room
from fastgw.config.base.route_patterns import parse_host, parse_path
from fastgw.http.path_normalization import normalize
from fastgw.routing.table import Conditions, Router

SIZES = (10, 1_000, 10_000)
HOST = "api.example.com"
REQUESTS = 1_000  # distinct ones, so that neither hashes nor the processor's caches are warm for a single path

# Kind -> a service's pattern of this kind, and a request path. No pattern matches another kind's paths.
KINDS = {
    "an exact path": ("/exact{0}/v1/items/all", "/exact{0}/v1/items/all"),
    "a parameter": ("/service{0}/v1/users/{{id}}", "/service{0}/v1/users/{1}"),
    "the rest": ("/app{0}/{{version}}/{{rest:path}}", "/app{0}/v1/x/{1}"),
    "a prefix": ("/files{0}/v1/public/*", "/files{0}/v1/public/{1}"),
    "a regex": ("~^/regex{0}/v[0-9]+/", "/regex{0}/v1/x/{1}"),
}
ABSENT = "/absent{0}/v1/users/{1}"


@dataclass(slots=True)
class Request:
    path: bytes
    host: bytes = HOST.encode()
    method: bytes = b"GET"
    query: bytes | None = None

    def values(self, name: bytes) -> list[bytes]:
        return []


def rooms() -> Iterator[Room]:
    plain = [f"/service{number}/v1/users/{number}".encode() for number in range(REQUESTS)]
    yield Room("the normal form of a plain path", normalize, plain)
    yield Room("the normal form of an escaped path", normalize, [path + b"/a%2fb%20c" for path in plain])
    services = Router([(Conditions(paths=(parse_path(f"/svc{number}/*"),)), number) for number in range(100)])
    yield from _looked_up("a service, 100 for any host", services, "/svc{0}/users/{1}", 100)
    for size in SIZES:
        number = size // len(KINDS)
        table = _mixed(number)
        for kind, path in [*((kind, path) for kind, (_, path) in KINDS.items()), ("no route", ABSENT)]:
            yield from _looked_up(f"{kind}, {size} routes", table, path, number)


def _looked_up(what: str, table: Router[int], path: str, services: int) -> Iterator[Room]:
    requests = [Request(path.format(number % services, number).encode()) for number in range(REQUESTS)]
    yield Room(what, table.find, requests)


def _mixed(services: int) -> Router[int]:
    """Return a table with one host, and a route of each kind for each service."""
    hosts = (parse_host(HOST),)
    patterns = [pattern.format(service) for service in range(services) for pattern, _ in KINDS.values()]
    rules = [Conditions(hosts=hosts, paths=(parse_path(pattern),), methods=(b"GET",)) for pattern in patterns]
    return Router([(conditions, number) for number, conditions in enumerate(rules)])


if __name__ == "__main__":
    for room in rooms():
        print(f"{room.name:42}{time_room(room, passes=9).least:8.0f} ns", flush=True)
