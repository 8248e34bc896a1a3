"""What clients are answered when something fails: status, `type`, title, detail, and the error of `Proxy-Status`.

`problems.json` is the contract: a change of it is a decision.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fastgw.errors import Fault
from fastgw.exchange import problem

GOLDEN = json.loads(Path(__file__).with_name("problems.json").read_text())
INNER = re.compile(r"[0-9]+\.[0-9]+|/|_|\bfastgw\b", re.IGNORECASE)  # addresses, paths, names of ours

# RFC 9209 section 2.3: every error type that a `Proxy-Status` may name.
PROXY_ERRORS = frozenset(
    (
        "dns_timeout",
        "dns_error",
        "destination_not_found",
        "destination_unavailable",
        "destination_ip_prohibited",
        "destination_ip_unroutable",
        "connection_refused",
        "connection_terminated",
        "connection_timeout",
        "connection_read_timeout",
        "connection_write_timeout",
        "connection_limit_reached",
        "tls_protocol_error",
        "tls_certificate_error",
        "tls_alert_received",
        "http_request_error",
        "http_request_denied",
        "http_response_incomplete",
        "http_response_header_section_size",
        "http_response_header_size",
        "http_response_body_size",
        "http_response_trailer_section_size",
        "http_response_trailer_size",
        "http_response_transfer_coding",
        "http_response_content_coding",
        "http_response_timeout",
        "http_upgrade_failed",
        "http_protocol_error",
        "proxy_internal_response",
        "proxy_internal_error",
        "proxy_configuration_error",
        "proxy_loop_detected",
    )
)


def told(fault: Fault) -> dict[str, object]:
    """All that the client is told, as the golden file has it."""
    reply = problem(fault)
    fields = {name.decode(): value.decode() for name, value in reply.fields}
    body = json.loads(reply.body)
    assert fields.pop("Content-Type") == "application/problem+json"
    assert reply.status == body["status"]
    return body | {"fields": fields}


def test_every_fault_is_answered_as_promised():
    assert {fault.label: told(fault) for fault in Fault} == GOLDEN


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.label)
def test_a_problem_names_a_registered_error_and_nothing_of_the_inside(fault):
    assert fault.proxy_status in PROXY_ERRORS
    assert not INNER.search(fault.detail)
    assert fault.detail.endswith(".")
