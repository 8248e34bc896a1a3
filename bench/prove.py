"""Every contestant does the same work: shown by a few requests before anything is measured."""

import http.client
import json
from ipaddress import ip_address

from bench.origin import BODY
from bench.peers.peer import HOST, Running, routes


class NotTheSameWork(Exception):
    """A contestant leaves out part of the scenario. The text says which."""


def prove(name: str, running: Running, count: int = 100) -> None:
    """Raise `NotTheSameWork` unless all routes answer, unknown paths do not, and forwarding fields are set."""
    client = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5.0)
    try:
        for route in routes(count):
            status, via, body = _get(client, f"/{route}/v1/items/7?page=2")
            _expect(f"status of /{route}/", status, 200)
            _expect(f"body of /{route}/", body, BODY.encode())
            _expect("Via in the response", bool(via), True)
        _expect("status of an unknown path", _get(client, "/elsewhere")[0], 404)
        seen = json.loads(_get(client, "/svc0/proof")[2])
        _expect("Via in the request", bool(seen.pop("via")), True)
        # An address, whichever: Envoy writes its own in place of a loopback one.
        _expect("X-Forwarded-For in the request", bool(ip_address(seen.pop("for"))), True)
        _expect("fields in the request", seen, {"host": HOST, "proto": "http", "forwarded_host": HOST})
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error
    finally:
        client.close()


def _get(client: http.client.HTTPConnection, path: str) -> tuple[int, str | None, bytes]:
    client.request("GET", path, headers={"Host": HOST})
    response = client.getresponse()
    return response.status, response.getheader("Via"), response.read()


def _expect(what: str, seen: object, expected: object) -> None:
    if seen != expected:
        raise ValueError(f"{what}: {seen!r}; expected {expected!r}")
