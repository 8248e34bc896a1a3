"""What `fastgw status` shows of the certificates that clients are shown."""

from __future__ import annotations

import time

import pytest
from msgspec.structs import replace
from rich.console import Console

from fastgw.admin import tables
from fastgw.admin.node import CertificateInfo
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
    console = Console(width=200, color_system="standard", force_terminal=True)
    with console.capture() as capture:
        console.print(tables.overview(replace(FakeNode().status(), certificates=[certificate]), tables.Upstreams([])))
    (line,) = [line for line in capture.get().splitlines() if "/etc/tls/a.pem" in line]
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


def test_who_shows_none_sees_no_table() -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(tables.overview(FakeNode().status(), tables.Upstreams([])))
    assert "certificates" not in capture.get()
