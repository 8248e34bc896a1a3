"""Purges as they are asked for: which are valid, and the form of URLs."""

import pytest

from fastgw.admin.cache_purges import CachePurge, normalized_url, read_purge
from fastgw.sync.cache_purges import PurgeOrder, PurgeTarget
from tests.support.table import for_each


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://a.test/b?c=d", b"http://a.test/b?c=d"),
        ("HTTPS://A.test", b"https://a.test/"),
        ("https://a.test:443/B", b"https://a.test/B"),
        ("http://a.test:443/", b"http://a.test:443/"),
        ("http://a.test:80?b", b"http://a.test/?b"),
        ("http://[::1]:8080/a", b"http://[::1]:8080/a"),
        ("http://a.test/%61/../%62%2f", b"http://a.test/b%2F"),
        ("http://a.test/é", b"http://a.test/%C3%A9"),
        ("http://a.test/a?", b"http://a.test/a?"),
    ],
)
def test_urls_get_the_form_of_the_store(text: str, url: bytes) -> None:
    assert normalized_url(text) == url


@for_each(
    "text",
    [
        "",
        "/a",
        "a.test/b",
        "//a.test/b",
        "ftp://a.test/b",
        "http:///b",
        "http://user@a.test/b",
        "http://a.test/b#c",
        "http://a.test/b#",
        "http://a.test/../b",
        "http://a.test/b c",
        "http://a.test/b\nc",
        "http://é.test/",
        "http://a.test:x/",
        "http://[::1/",
        "http://a.test/" + "a" * 9000,
        "http://a.test/" + "é" * 2000,
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        normalized_url(text)


@pytest.mark.parametrize(
    ("wanted", "order"),
    [
        (CachePurge(url="http://a/b"), PurgeOrder("main", PurgeTarget.URL, (b"http://a/b",))),
        (CachePurge(prefix="http://a", soft=True), PurgeOrder("main", PurgeTarget.PREFIX, (b"http://a/",), True)),
        (CachePurge(tags=["x", "y:1"], store="s"), PurgeOrder("s", PurgeTarget.TAGS, (b"x", b"y:1"))),
        (CachePurge(all=True), PurgeOrder("main", PurgeTarget.ALL)),
    ],
)
def test_a_purge_becomes_an_order(wanted: CachePurge, order: PurgeOrder) -> None:
    assert read_purge(wanted) == order


@for_each(
    "wanted",
    [
        CachePurge(),
        CachePurge(url="http://a/", all=True),
        CachePurge(tags=[], url="http://a/"),
        CachePurge(tags=[]),
        CachePurge(tags=["a"] * 257),
        CachePurge(tags=["a b"]),
        CachePurge(tags=["a,b"]),
        CachePurge(tags=["\0http://a/"]),
        CachePurge(tags=[""]),
        CachePurge(tags=["é"]),
    ],
)
def test_a_purge_of_several_kinds_or_of_nothing_is_refused(wanted: CachePurge) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_purge(wanted)
