"""Verifies with a few requests, before the measurement, that every contestant does the same work."""

import http.client
import json
import ssl
from collections.abc import Mapping
from ipaddress import ip_address

from bench.origin import BODY
from bench.peers.peer import HOST, Running, routes


class NotTheSameWork(Exception):
    """A contestant does not do a part of the scenario's work. The text names it."""


def prove(
    name: str,
    running: Running,
    count: int = 100,
    fields: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Raise `NotTheSameWork` unless all routes respond, unknown paths do not, and forwarding headers are set.

    `fields`: headers of each request. With `tls` the requests use HTTPS.
    """
    client = client_of(running, tls)
    sent = {"Host": HOST, **(fields or {})}
    try:
        for route in routes(count):
            status, via, body = _get(client, f"/{route}/v1/items/7?page=2", sent)
            expect(f"status of /{route}/", status, 200)
            expect(f"body of /{route}/", body, BODY.encode())
            expect("Via in the response", bool(via), True)
        expect("status of an unknown path", _get(client, "/elsewhere", sent)[0], 404)
        seen = json.loads(_get(client, "/svc0/proof", sent)[2])
        expect("Via in the request", bool(seen.pop("via")), True)
        # Any address: Envoy replaces a loopback address by its own.
        expect("X-Forwarded-For in the request", bool(ip_address(seen.pop("for"))), True)
        scheme = "https" if tls else "http"
        expect("fields in the request", seen, {"host": HOST, "proto": scheme, "forwarded_host": HOST})
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotTheSameWork(f"{name}: {error}") from error
    finally:
        client.close()


def client_of(running: Running, tls: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
    """Return a client of one contestant, not yet connected."""
    if tls:
        return http.client.HTTPSConnection("127.0.0.1", running.port, timeout=5.0, context=tls)
    return http.client.HTTPConnection("127.0.0.1", running.port, timeout=5.0)


def expect(what: str, seen: object, expected: object) -> None:
    """Raise `ValueError` unless the values are equal."""
    if seen != expected:
        raise ValueError(f"{what}: {seen!r}; expected {expected!r}")


def _get(client: http.client.HTTPConnection, path: str, fields: Mapping[str, str]) -> tuple[int, str | None, bytes]:
    client.request("GET", path, headers=fields)
    response = client.getresponse()
    return response.status, response.getheader("Via"), response.read()
