"""What `fastgw status` shows of the certificates that clients are shown."""

from __future__ import annotations

import re
import time

import pytest
from msgspec.structs import replace
from rich.console import Console

from fastgw.admin import status_tables
from fastgw.admin.node_interface import (
    CacheStoreInfo,
    CertificateInfo,
    DiskTierInfo,
    FeedInfo,
    RedisTierInfo,
    Status,
    VerifierInfo,
)
from tests.support.admin import FakeNode

DAY_S = 86400


def shown(left_s: float, problem: str = "") -> str:
    certificate = CertificateInfo(
        listener="public",
        certificate="/etc/tls/a.pem",
        names=["a.example", "*.b.example"],
        serial="0A",
        expires_date=time.time() + left_s + 0.5,
        problem=problem,
    )
    return line_of(replace(FakeNode().status(), certificates=[certificate]), "/etc/tls/a.pem")


def line_of(status: Status, word: str) -> str:
    console = Console(width=200, color_system="standard", force_terminal=True)
    with console.capture() as capture:
        console.print(status_tables.overview(status, status_tables.Upstreams([]), status_tables.Routes([])))
    (line,) = [line for line in capture.get().splitlines() if word in line]
    return line


@pytest.mark.parametrize(
    ("left_s", "told", "colour"),
    [(90 * DAY_S, "90 d 0 h", ""), (13 * DAY_S, "13 d 0 h", "\x1b[33m"), (-1, "expired", "\x1b[31m")],
)
def test_an_end_that_comes_near_is_seen(left_s: float, told: str, colour: str) -> None:
    line = shown(left_s)
    assert f"{colour}{told}" in line
    assert "public" in line
    assert "a.example, *.b.example" in line


def test_why_a_newer_file_is_not_shown_is_told() -> None:
    assert "\x1b[31m/etc/tls/a.key: it is not the key" in shown(90 * DAY_S, "/etc/tls/a.key: it is not the key")


@pytest.mark.parametrize(
    ("is_up", "errors", "told"),
    [(True, 0, ""), (True, 3, "\x1b[31m3 accesses failed"), (False, 3, "\x1b[31mnot used: a purge could not be")],
)
def test_the_tiers_of_the_response_cache_are_told(is_up: bool, errors: int, told: str) -> None:
    disk = DiskTierInfo("/var/cache", 2**30, 2**20, 40, 7, 41, 0, 1, 0, errors, is_up)
    store = CacheStoreInfo("main", 2**26, 2**20, 1234, 5, disk, RedisTierInfo(9, 1, 0, 0))
    status = replace(FakeNode().status(), caches=[store])
    assert re.search(r"main *memory *1,234 *1.0 MiB *64.0 MiB *5", line_of(status, "memory  "))
    line = line_of(status, "disk /var/cache")
    assert re.search(r"40 *1.0 MiB *1.0 GiB *7 *1", line)
    assert told in line
    assert "9" in line_of(status, "Redis")


@pytest.mark.parametrize(
    ("redis", "told"),
    [
        (RedisTierInfo(9, 1, 0, 0, True), ""),
        (RedisTierInfo(9, 1, 0, 0, None), ""),
        (RedisTierInfo(9, 1, 1200, 0, True), "\x1b[31m1,200 not written"),
        (RedisTierInfo(9, 1, 2, 3), "\x1b[31m2 not written, 3 damaged"),
        (RedisTierInfo(9, 1, 2, 3, False), "\x1b[31munreachable"),
    ],
)
def test_trouble_with_redis_is_told(redis: RedisTierInfo, told: str) -> None:
    status = replace(FakeNode().status(), caches=[CacheStoreInfo("main", 2**26, 0, 0, 0, None, redis)])
    line = line_of(status, "Redis")
    assert told in line
    assert ("\x1b[31m" in line) is bool(told)


def test_who_shows_none_sees_no_table() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(
            status_tables.overview(FakeNode().status(), status_tables.Upstreams([]), status_tables.Routes([]))
        )
    assert "certificates" not in capture.get()


@pytest.mark.parametrize(
    ("kind", "left_s", "told"),
    [
        ("crl", 2 * DAY_S, " 2 d 0 h"),
        ("crl", DAY_S / 2, "\x1b[33m12 h 0 min"),
        ("crl", -1, "\x1b[31mexpired"),
        ("ca", 2 * DAY_S, "\x1b[33m2 d 0 h"),
        ("crl", None, " never"),
    ],
)
def test_the_end_of_what_verifies_clients_is_seen(kind: str, left_s: float | None, told: str) -> None:
    date = None if left_s is None else time.time() + left_s + 0.5
    verifier = VerifierInfo("public", "crl" if kind == "crl" else "ca", "/etc/tls/v.pem", date, "it is broken")
    line = line_of(replace(FakeNode().status(), verifiers=[verifier]), "/etc/tls/v.pem")
    assert told in line
    assert "\x1b[31mit is broken" in line


def test_what_is_fetched_is_seen_and_why_it_is_not() -> None:
    feeds = [FeedInfo("https://id.example/keys", 1_700_000_000.0, ""), FeedInfo("https://b.example/keys", None, "no")]
    feeds.append(FeedInfo("https://idp.example/token", 1.0, "", "egress/shop/orders", 3))
    status = replace(FakeNode().status(), feeds=feeds)
    assert "2023-11-1" in line_of(status, "id.example")
    assert "not yet" in line_of(status, "b.example")
    assert "\x1b[31mno" in line_of(status, "b.example")
    assert "egress/shop/orders and 2 more" in line_of(status, "idp.example")
