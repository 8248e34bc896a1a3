"""`fastgw status` and `fastgw top` in narrow terminals: columns are left out, and no number is cut or folded."""

from __future__ import annotations

import pytest
from rich.console import Console, RenderableType

from fastgw.admin import status_tables
from fastgw.admin.node_interface import Upstreams
from fastgw.admin.traffic_tables import Top, TrafficRow, top_table
from tests.support.admin import FakeNode


def rows(shown: RenderableType, width: int, word: str) -> list[list[str]]:
    """The words of each line from the header with this word on."""
    console = Console(width=width)
    with console.capture() as capture:
        console.print(shown)
    lines = [line.split() for line in capture.get().splitlines()]
    return lines[next(at for at, line in enumerate(lines) if word in line) :]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (80, ["get-orders", "15,234.5", "12.0", "1.2", "ms", "345.6", "ms", "9,876,543"]),
        (50, ["get-orders", "15,234.5", "12.0", "345.6", "ms"]),
        (34, ["get-orders", "15,234.5", "12.0"]),
        (28, ["get-orders", "15,234.5"]),
    ],
)
def test_the_busiest_routes_keep_the_columns_that_matter_most(width: int, expected: list[str]) -> None:
    row = TrafficRow("get-orders", 15234.5, 12.0, 0.0012, 0.3456, 9_876_543)
    header, _, found, *_ = rows(top_table(Top(2.0, 15234.5, 12.0, 3, [row], [])), width, "route")
    assert found == expected
    assert header[:2] == ["route", "req/s"]


def test_a_name_that_is_too_long_is_folded_and_not_cut() -> None:
    row = TrafficRow("get-orders-of-customer", 15234.5)
    _, _, *found = rows(top_table(Top(2.0, 15234.5, 0.0, 3, [row], [])), 20, "route")
    assert "".join(line[0] for line in found if line) == "get-orders-of-customer"
    assert found[0][1] == "15,234.5"


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (
            80,
            ["0", "ready", "4321", "1", "1", "d", "2", "h", "17", "1,234,567", "34.3", "MiB", "12.5", "s", "1.2", "ms"],
        ),
        (60, ["0", "ready", "4321", "1", "d", "2", "h", "17", "1,234,567", "34.3", "MiB"]),
        (40, ["0", "ready", "1", "d", "2", "h", "17", "1,234,567"]),
        (24, ["0", "ready", "1,234,567"]),
    ],
)
def test_workers_keep_the_columns_that_matter_most(width: int, expected: list[str]) -> None:
    node = FakeNode()
    shown = status_tables.overview(node.status(), Upstreams([]), status_tables.Routes([]))
    _, _, found, *_ = rows(shown, width, "slot")
    assert found == expected


def test_targets_keep_their_address_and_health() -> None:
    node = FakeNode()
    shown = status_tables.overview(node.status(), Upstreams(node.upstreams_known), status_tables.Routes([]))
    header, _, first, second, *_ = rows(shown, 30, "target")
    assert header == ["upstream", "target", "health"]
    assert (first[0], first[2]) == ("users", "healthy")
    assert first[1] + second[0] == "http://u1:9001"
