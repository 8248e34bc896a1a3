"""Checks of the gateway's own responses."""

from __future__ import annotations

import json
import re

from fastgw.errors import Fault
from tests.support.client import Client, Response

PROXY_STATUS = re.compile(rb"fastgw; ?error=([a-z_]+)(;.*)?")
INNER = re.compile(rb"127\.0\.0\.1|::1|Traceback|\.py\b|fastgw/")  # internal addresses, files and code


def assert_fault(response: Response, *names: str) -> str:
    """Assert that `response` is the one for one of these faults, and return the fault's name.

    The body is a problem (RFC 9457) whose `type` ends with the name, `Proxy-Status` (RFC 9209) has its error, and no
    internals are shown.
    """
    assert response.get(b"Content-Type") == b"application/problem+json", response
    problem = json.loads(response.body)
    prefix, _, name = problem["type"].rpartition(":")
    assert (prefix, name in names) == ("urn:fastgw:fault", True), f"{problem['type']}, not {names}: {response}"
    fault = Fault[name.upper()]
    assert response.status == problem["status"] == fault.status
    assert problem["title"]
    assert problem["detail"]
    found = PROXY_STATUS.fullmatch(response.get(b"Proxy-Status") or b"")
    assert found, response
    assert found[1].decode() == fault.proxy_status
    assert response.get(b"Date")
    assert not INNER.search(response.body), response
    if fault.status == 503:
        assert int(response.get(b"Retry-After") or b"0") > 0
    if fault.status == 405:
        assert b"Allow" in response
    return name


def assert_refused(client: Client, *names: str, request_method: bytes = b"GET") -> Response:
    """Assert that a response for one of these faults comes, and that the connection is closed, because later bytes are
    ambiguous.
    """
    response = client.read_response(request_method)
    assert_fault(response, *names)
    assert response.get(b"Connection") == b"close"
    client.assert_ended()
    return response
