"""The dashboard for Grafana: what it asks Prometheus for exists, and can be read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
BOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "fastgw.json").read_text())
PANELS: list[dict[str, Any]] = BOARD["panels"]
DRAWN = [panel for panel in PANELS if panel["type"] != "row"]
VARIABLES: dict[str, dict[str, Any]] = {each["name"]: each for each in BOARD["templating"]["list"]}
BUILT_IN = {"__rate_interval"}

SELECTOR = re.compile(r"\b(fastgw_\w+)(?:\{([^{}]*)\})?")
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}
PAIRS = {")": "(", "]": "[", "}": "{"}


def known() -> dict[str, tuple[str, set[str]]]:
    """Every series of the exposition: its kind and its labels, as the golden list has them."""
    found = {}
    for line in (ROOT / "tests" / "contract" / "metrics.txt").read_text().splitlines():
        name, kind, labels = re.match(r"(\w+) (\w+) \{(.*?)\}", line).groups()  # type: ignore[union-attr]
        for suffix in SUFFIXES[kind]:
            found[name + suffix] = kind, {*filter(None, labels.split(", ")), *(["le"] if suffix == "_bucket" else [])}
    return found


def queries() -> Iterator[tuple[str, str]]:
    """Where it stands, and the PromQL."""
    for panel in DRAWN:
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    yield from ((each["name"], each["expr"]) for each in BOARD["annotations"]["list"])
    for name, variable in VARIABLES.items():
        if variable["type"] == "query":
            yield name, re.fullmatch(r"label_values\((.+), \w+\)", variable["definition"])[1]  # type: ignore[index]


def test_every_metric_and_label_exists() -> None:
    """`instance` is Prometheus' own, on every series."""
    series = known()
    for place, query in queries():
        named = SELECTOR.findall(query)
        assert named, place
        for name, conditions in named:
            assert name in series, place
            assert set(re.findall(r"(\w+)\s*[=!]", conditions)) <= {*series[name][1], "instance"}, place
        for labels in re.findall(r"\bby \(([^)]*)\)", query):
            assert set(labels.split(", ")) <= {"instance"}.union(*(series[name][1] for name, _ in named)), place


def test_counters_are_asked_for_their_rate() -> None:
    for place, query in queries():
        for name, _ in () if query.startswith("fastgw_") else SELECTOR.findall(query):  # not the values of a variable
            is_counter = known()[name][0] != "gauge"
            asked_over_time = re.search(rf"\b(rate|increase)\({name}\{{[^}}]*\}}\[", query) is not None
            assert asked_over_time == is_counter, place


def test_every_query_is_balanced() -> None:
    for place, query in queries():
        left: list[str] = []
        for character in re.sub(r'"[^"]*"', '""', query):
            if character in PAIRS.values():
                left.append(character)
            elif character in PAIRS:
                assert left, place
                assert left.pop() == PAIRS[character], place
        assert left == [], place
        assert query.count('"') % 2 == 0, place


def test_every_variable_that_is_named_exists() -> None:
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([DRAWN, BOARD["annotations"]])))
    assert used == {*VARIABLES, *BUILT_IN}
    assert {"datasource", "instance", "route"} <= set(VARIABLES)


def test_panels_have_ids_names_and_places_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert all(panel["title"] and panel["description"] for panel in DRAWN)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        x, y, width, height = (panel["gridPos"][key] for key in ("x", "y", "w", "h"))
        assert x + width <= 24
        place = {(column, line) for column in range(x, x + width) for line in range(y, y + height)}
        assert not place & taken
        taken |= place


def test_queries_of_a_panel_are_told_apart() -> None:
    for panel in DRAWN:
        targets = panel["targets"]
        assert len({target["refId"] for target in targets}) == len(targets)
        assert len({target["legendFormat"] for target in targets}) == len(targets)


def test_it_shows_everything_that_is_counted() -> None:
    """A metric that nobody looks at is one too many, here or there."""
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for _, query in queries() for name, _ in SELECTOR.findall(query)}
    counted = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known()}
    assert counted - shown == set()
