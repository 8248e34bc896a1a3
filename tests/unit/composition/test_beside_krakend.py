"""Composition beside KrakenD: the cases of Lura's tests (proxy/formatter, merging, static), and what differs from them.

The differences are in the table of docs/guides/compose.md.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.table import for_each
from tests.unit.composition.test_compose import Composed, answer, composed

ORDER: dict[str, Any] = {
    "id": 7,
    "paid": False,
    "to": {
        "name": "Ann",
        "at": {"city": "Ulm", "street": "Hafengasse", "geo": {"lat": 48.4, "lon": 10.0}},
        "floor": {"no": 3},
    },
    "rows": [{"sku": "a", "n": 1, "tmp": 0}, {"sku": "b", "n": 2, "tmp": 0}],
    "open": [1, 2],
    "done": [8, 9],
}


@for_each(
    ("rules", "expected"),
    [
        ({"allow": ["to.at.city", "to.at.geo.lat"]}, {"to": {"at": {"city": "Ulm", "geo": {"lat": 48.4}}}}),
        ({"allow": ["to.at.none", "id.x", "none"]}, {}),
        (
            {
                "deny": [
                    "id",
                    "paid",
                    "rows",
                    "open",
                    "done",
                    "to.name",
                    "to.at.geo.lat",
                    "to.at.city",
                    "id.x",
                    "none.x",
                ]
            },
            {"to": {"at": {"street": "Hafengasse", "geo": {"lon": 10.0}}, "floor": {"no": 3}}},
        ),
        ({"allow": ["id"], "mapping": {"id": "number.of"}}, {"number.of": 7}),
        ({"target": "to.floor"}, {"no": 3}),
        ({"target": "to.none"}, {}),
        ({"target": "paid"}, {}),
        ({"target": "rows"}, {}),
        (
            {"target": "to", "allow": ["name"], "mapping": {"name": "Name", "to.name": "x"}, "group": "g"},
            {"g": {"Name": "Ann"}},
        ),
        (
            {
                "group": "g",
                "flatmap": [
                    {"type": "del", "args": ["to", "none.x"]},
                    {"type": "append", "args": ["open", "done"]},
                    {"type": "move", "args": ["id", "number"]},
                    {"type": "del", "args": ["rows.*.tmp", "rows.*.n", "rows.9.x"]},
                    {"type": "move", "args": ["rows.*.sku", "rows.*.article"]},
                ],
            },
            {
                "g": {
                    "number": 7,
                    "paid": False,
                    "rows": [{"article": "a"}, {"article": "b"}],
                    "done": [8, 9, 1, 2],
                }
            },
        ),
    ],
)
def test_rules_of_a_part(rules: dict[str, Any], expected: Any) -> None:
    made = composed({"/a": answer(ORDER)}, {"name": "a", **rules})
    assert json.loads(made.body) == expected
    assert made.header("Fastgw-Completed") == "true"


@pytest.mark.parametrize(("status", "used"), [(200, True), (201, True), (202, True), (206, True), (302, False)])
def test_every_status_of_success_is_one(status: int, used: bool) -> None:
    made = composed({"/a": answer({"a": 1}, status), "/b": answer({"b": 1})}, {"name": "a"}, {"name": "b"})
    assert json.loads(made.body) == ({"a": 1, "b": 1} if used else {"b": 1})


@pytest.mark.parametrize(
    ("strategy", "added"),
    [("always", True), ("success", False), ("complete", False), ("errored", True), ("incomplete", True)],
)
def test_a_described_error_is_an_error_to_strategies(strategy: str, added: bool) -> None:
    static = {"strategy": strategy, "data": {"s": 1}}
    parts = ({"name": "a"}, {"name": "b", "error_as": "error_{name}"})
    made = composed({"/a": answer({"a": 1}), "/b": answer(b"no", 404)}, *parts, static=static)
    described = {"http_status_code": 404, "http_body": "no"}
    assert json.loads(made.body) == {"a": 1, "error_b": described} | ({"s": 1} if added else {})


def test_a_sequence_ends_with_the_first_failure() -> None:
    parts = [{"name": name} for name in "abc"]
    made = Composed(*parts, sequential=True).asks()
    made.gets("/a", answer({"a": 1}))
    made.gets("/b", answer({}, 500))
    assert [request.split(b" ")[1] for request in made.requests] == [b"/a", b"/b"]
    assert json.loads(made.body) == {"a": 1}
    assert made.header("Fastgw-Completed") == "false"
    made = Composed(*parts, sequential=True).asks()
    made.gets("/a", answer({}, 500))
    assert len(made.requests) == 1
    assert made.status == 502


@pytest.mark.parametrize(
    ("value", "path"),
    [("12", "/b/12"), ("1.10", "/b/1.10"), ("1e2", "/b/1e2"), ("true", "/b/true"), ('"x y"', "/b/x%20y")],
)
def test_values_of_an_earlier_answer_keep_their_text(value: str, path: str) -> None:
    made = Composed({"name": "a"}, {"name": "b", "path": "/b/{part.a.v.w}", "after": ["a"]}).asks()
    made.gets("/a", answer(b'{"v":{"w":' + value.encode() + b"}}"))
    assert path in made.open


@pytest.mark.parametrize("value", [[], ["x", "y"], {}, None, ""])
def test_what_is_no_single_value_fails_the_part(value: Any) -> None:
    made = Composed({"name": "a"}, {"name": "b", "path": "/b/{part.a.v}", "after": ["a"]}).asks()
    made.gets("/a", answer({"v": value}))
    assert not made.open
    assert made.header("Fastgw-Completed") == "false"
