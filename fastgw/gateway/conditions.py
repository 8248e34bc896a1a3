"""Conditions of routes: from settings to what the route table compares."""

from collections.abc import Iterator, Mapping

from fastgw.config.base.route_patterns import HostPattern, PathPattern, either_slash, parse_host, parse_path
from fastgw.config.settings import gateway as config
from fastgw.filters.policies.ip.address_check import address_check
from fastgw.routing.requirements import (
    Requirement,
    ValueTest,
    any_test,
    client_requirement,
    cookie_requirement,
    exact_test,
    header_requirement,
    prefix_test,
    query_requirement,
    regex_test,
)
from fastgw.routing.table import Conditions, Steps

_Values = Mapping[str, str | config.ValueCondition]


def conditions_of(route: config.Route) -> Steps[Conditions]:
    hosts: list[HostPattern] = []
    paths: list[PathPattern] = []
    for host in route.hosts:
        hosts.append(parse_host(host))
        yield
    for path in route.paths:
        pattern = parse_path(path)
        paths += either_slash(pattern) if route.trailing_slash == "same" else (pattern,)
        yield
    return Conditions(
        hosts=tuple(hosts),
        paths=tuple(paths),
        methods=tuple(method.encode() for method in route.methods),
        headers=tuple((name.lower().encode(), value.encode()) for name, value in _equal(route.headers)),
        query=tuple((name.encode(), value.encode()) for name, value in _equal(route.query)),
        others=requirements_of(route),
        priority=route.priority,
        rank=route.rank,
        implies_head=route.head == "as_get",
    )


def requirements_of(route: config.Route) -> tuple[Requirement, ...]:
    """Return the conditions of a route that are more than an equal value of a header or parameter."""
    if not (route.headers or route.query or route.cookies or route.clients):
        return ()
    found = [header_requirement(name.lower().encode(), value_test(each)) for name, each in _others(route.headers)]
    found += [query_requirement(name.encode(), value_test(each)) for name, each in _others(route.query)]
    found += [cookie_requirement(name.encode(), value_test(each)) for name, each in route.cookies.items()]
    if route.clients:
        found.append(client_requirement(address_check(route.clients, ())))
    return tuple(found)


def value_test(condition: str | config.ValueCondition) -> ValueTest | None:
    """Return the test of a value; None: it has to be absent."""
    if isinstance(condition, str):
        return exact_test(condition.encode())
    if condition.exact is not None:
        return exact_test(condition.exact.encode())
    if condition.prefix is not None:
        return prefix_test(condition.prefix.encode())
    if condition.regex is not None:
        return regex_test(condition.regex.encode())
    return any_test if condition.present else None


def _equal(values: _Values) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in values.items() if isinstance(value, str))


def _others(values: _Values) -> Iterator[tuple[str, config.ValueCondition]]:
    return ((name, value) for name, value in values.items() if not isinstance(value, str))
