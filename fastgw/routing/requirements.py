"""Requirements: conditions of routes on headers, query, cookies and clients beyond equal values.

A requirement is satisfied if any value satisfies it, as in `http.header_conditions`: repeating a header, a parameter or
a cookie never bypasses a route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import re2

from fastgw.config.base.route_patterns import re2_options
from fastgw.http.header_conditions import any_value
from fastgw.http.percent_encoding import decode_form_text

if TYPE_CHECKING:
    from fastgw.routing.entry import Routable

Requirement: TypeAlias = "Callable[[Routable], bool]"
ValueTest: TypeAlias = Callable[[bytes], bool]


class ClientUnknown(Exception):
    """The address of the client is not known yet: the route has to be found again with the whole exchange."""


def any_test(value: bytes) -> bool:
    """Accept any value: it is present."""
    return True


def exact_test(wanted: bytes) -> ValueTest:
    return lambda value: value == wanted


def prefix_test(wanted: bytes) -> ValueTest:
    return lambda value: value.startswith(wanted)


def regex_test(source: bytes) -> ValueTest:
    """Return a test for values in which the regular expression matches, in time linear in their length."""
    pattern: Any = re2.compile(source, re2_options())
    return lambda value: pattern.search(value) is not None


def header_requirement(name: bytes, test: ValueTest | None) -> Requirement:
    """Return a requirement on a header, by its lower-case name. `test`: None = it is absent."""
    if test is None:
        return lambda request: not request.values(name)
    accepts = test
    return lambda request: any_value(name, accepts, request.values(name))


def query_requirement(name: bytes, test: ValueTest | None) -> Requirement:
    """Return a requirement on a query parameter, decoded. `test`: None = it is absent."""
    if test is None:
        return lambda request: not any(True for _ in parameters_named(name, request.query))
    accepts = test
    return lambda request: any(map(accepts, parameters_named(name, request.query)))


def cookie_requirement(name: bytes, test: ValueTest | None) -> Requirement:
    """Return a requirement on a cookie. `test`: None = it is absent."""
    if test is None:
        return lambda request: not cookies_named(name, request.values(b"cookie"))
    accepts = test
    return lambda request: any(map(accepts, cookies_named(name, request.values(b"cookie"))))


def client_requirement(contains: Callable[[str], tuple[bool, str]]) -> Requirement:
    """Return a requirement on the client's address. `contains`: as `filters.policies.ip.address_check.address_check`
    returns it.

    It raises `ClientUnknown` for the bare head of a request.
    """

    def is_met(request: Routable) -> bool:
        address: str | None = getattr(request, "client_ip", None)
        if address is None:
            raise ClientUnknown
        return contains(address)[0]

    return is_met


def parameters_named(name: bytes, query: bytes | None) -> Iterable[bytes]:
    """Yield the decoded values of a query parameter."""
    for pair in query.split(b"&") if query else ():
        key, _, value = pair.partition(b"=")
        if key == name or (key and decode_form_text(key) == name):
            yield decode_form_text(value)


def cookies_named(name: bytes, lines: Iterable[bytes]) -> list[bytes]:
    """Return the values of a cookie (RFC 6265 section 5.4)."""
    found = []  # PERF: not a generator
    for line in lines:
        for pair in line.split(b";"):
            key, _, value = pair.partition(b"=")
            if key.strip() == name:
                found.append(value.strip())
    return found
