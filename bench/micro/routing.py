"""Routing: that a look-up costs the same among 10 and 10,000 routes. Alone: `python -m bench.micro.routing`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.micro.timing import Room, time_room
from fastgw.config.patterns import parse_host, parse_path
from fastgw.routing import Conditions, Router
from fastgw.wire.paths import normalize

SIZES = (10, 1_000, 10_000)
HOST = "api.example.com"
REQUESTS = 1_000  # different ones, so that neither hashes nor the processor's caches are warm for one path

# What is asked for -> a service's pattern for it, and a request's path: four segments where the pattern allows.
KINDS = {
    "an exact path": ("/service{0}/v1/items/all", "/service{0}/v1/items/all"),
    "a path with a parameter": ("/service{0}/v1/users/{{id}}", "/service{0}/v1/users/{1}"),
    "a prefix": ("/service{0}/v1/files/*", "/service{0}/v1/files/{1}"),
    "the rest of a path": ("/service{0}/{{app}}/{{rest:path}}", "/service{0}/app/x/{1}"),
    "a regular expression": ("~^/regex{0}/v[0-9]+/", "/regex{0}/v1/x/{1}"),
}
ABSENT = "/absent{0}/v1/users/{1}"


@dataclass
class Request:
    path: bytes
    host: bytes = HOST.encode()
    method: bytes = b"GET"
    query: bytes | None = None

    def field(self, name: bytes) -> bytes | None:
        return None


def rooms() -> Iterator[Room]:
    plain = [f"/service{number}/v1/users/{number}".encode() for number in range(REQUESTS)]
    yield Room("the normal form of a plain path", normalize, plain)
    yield Room("the normal form of an escaped path", normalize, [path + b"/a%2fb%20c" for path in plain])
    for size in SIZES:
        services = size // len(KINDS)
        find = _router(services)
        for kind, path in [*((kind, path) for kind, (_, path) in KINDS.items()), ("no route", ABSENT)]:
            requests = [Request(path.format(number % services, number).encode()) for number in range(REQUESTS)]
            yield Room(f"{kind}, {size} routes", find, requests)


def _router(services: int) -> Callable[[Request], object]:
    hosts = (parse_host(HOST),)
    patterns = [pattern.format(service) for service in range(services) for pattern, _ in KINDS.values()]
    routes = [
        (Conditions(hosts=hosts, paths=(parse_path(pattern),), methods=(b"GET",)), pattern) for pattern in patterns
    ]
    return Router(routes).find


if __name__ == "__main__":
    for room in rooms():
        print(f"{room.name:42}{time_room(room, passes=9).least:8.0f} ns", flush=True)
