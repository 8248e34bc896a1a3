"""query_parameters: what is removed, renamed, set and added, and that no value becomes two."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import pytest

from fastgw.filters.policies.content import QueryParameters
from fastgw.testing import ConfigError, configured, run
from tests.support.table import for_each


def sent(settings: dict[str, Any], query: str, *lines: str) -> str:
    """The query that the upstream gets."""
    request = "\r\n".join([f"GET /a{query} HTTP/1.1", "Host: a", *lines, "", ""]).encode()
    target = run(configured(QueryParameters, **settings), request).sent.split(b" ")[1].decode()
    return target.removeprefix("/a")


@for_each(
    ("settings", "query", "expected"),
    [
        ({"remove": ["debug"]}, "?a=1&debug=1&b", "?a=1&b"),
        ({"remove": ["debug"]}, "?%64ebug=1&debug", ""),
        ({"remove": ["debug"]}, "?a=%2f+&b=%zz", "?a=%2f+&b=%zz"),
        ({"remove": ["debug"]}, "", ""),
        ({"rename": {"q": "query"}}, "?a=1&q=x%26y&q=2", "?a=1&query=x%26y&query=2"),
        ({"rename": {"q": "query"}}, "?query=theirs&q=x", "?query=x"),
        ({"rename": {"a": "b", "b": "a"}}, "?a=1&b=2", "?b=1&a=2"),
        ({"remove": ["q"], "rename": {"q": "query"}}, "?q=1&a=2&%71=3", "?a=2"),
        ({"remove": ["q"], "rename": {"q": "r", "r": "q"}}, "?q=1&r=2", "?q=2"),
        ({"remove": ["query"], "rename": {"q": "query"}}, "?q=1&query=2", "?query=1"),
        ({"remove": ["q"], "rename": {"q": "query"}, "set": {"query": "3"}, "add": {"q": "4"}}, "?q=1", "?query=3&q=4"),
        ({"rename": {"a": "b"}, "set": {"b": "ours"}}, "?a=1&b=2", "?b=ours"),
        ({"set": {"a b": "c&d"}}, "?a+b=theirs&x=1", "?x=1&a%20b=c%26d"),
        ({"add": {"x": "2"}}, "?x=1", "?x=1&x=2"),
        ({"add": {"m": "{method}"}}, "", "?m=GET"),
        ({"set": {"who": "{header.X-Who}"}}, "?who=me", ""),
    ],
)
def test_the_query_that_is_sent(settings: dict[str, Any], query: str, expected: str) -> None:
    assert sent(settings, query) == expected


@pytest.mark.parametrize("value", ["a&admin=1", "a#b", "a?b=/../", "//h", "%0d%0aX: 1", "ü"])
def test_a_value_is_one_value_whatever_it_is(value: str) -> None:
    query = sent({"set": {"who": "{header.X-Who}"}}, "?a=1", f"X-Who: {value}")
    pairs = parse_qsl(query.removeprefix("?"), encoding="latin-1", keep_blank_values=True)
    assert pairs == [("a", "1"), ("who", value.encode().decode("latin-1"))]


@pytest.mark.parametrize(
    ("template", "segment", "expected"),
    [
        ("{a}", "J%C3%BCrgen%20M", "J%C3%BCrgen%20M"),
        ("{param.a}", "J%C3%BCrgen", "J%C3%BCrgen"),
        ("<{a}>", "%20x%20", "%3C%20x%20%3E"),
        ("{a}", "%FFx", "%FFx"),
        ("{a}", "a+b&c=d%26", "a%2Bb%26c%3Dd%26"),
        ("{a}", "100%25", "100%25"),
        ("{a}", "%3B%2F", "%3B%2F"),
    ],
)
def test_a_path_parameter_is_encoded_once(template: str, segment: str, expected: str) -> None:
    """RFC 3986 section 2.4: its value is the decoded one; a plus sign of a path is no space."""
    request = f"GET /rx/{segment}/b HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    set_s = QueryParameters(set={"s": template})
    for path in ("/rx/{a}/b", "~^/rx/(?P<a>[^/]*)/b$"):
        target = run(set_s, request, paths=[path]).sent.split(b" ")[1].decode()
        assert target.partition("?")[2] == f"s={expected}"


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({}, "expected at least one of"),
        ({"rename": {"a": "c", "b": "c"}}, "renamed to the same name"),
        ({"set": {"a": "{"}}, "single brace"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        configured(QueryParameters, **settings)
