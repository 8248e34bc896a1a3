"""Nesting of JSON from the API server: what is deeper than a decoder reads is cut, and stops nothing else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from fastgw.runtime.control.kubernetes.nesting import MOST_LEVELS, without_deep_values

FIRST = {"metadata": {"name": 'a]}\\"{'}}
LAST: dict[str, Any] = {"b": [[], {}, "]"]}


def page(levels: int) -> bytes:
    """Return a list of three objects. `levels`: those of the value in the second one, which begins at the fourth."""
    parts = json.dumps(FIRST).encode(), b'{"spec": ' + b'{"a":' * levels + b'"["' + b"}" * levels + b', "c": [1]}'
    return b'{"items": [' + b", ".join((*parts, json.dumps(LAST).encode())) + b"]}"


def test_what_is_not_nested_too_deeply_is_unchanged() -> None:
    for levels in (0, 1, MOST_LEVELS - 3):
        assert without_deep_values(page(levels)) == page(levels)


@pytest.mark.parametrize("levels", [MOST_LEVELS - 2, 900, 9_000])
def test_values_that_are_nested_too_deeply_are_cut_and_all_others_stay(levels: int) -> None:
    first, second, last = msgspec.json.decode(without_deep_values(page(levels)))["items"]
    assert (first, last, second["c"]) == (FIRST, LAST, [1])
    value, depth = second["spec"], 0
    while isinstance(value, dict):
        value, depth = value["a"], depth + 1
    assert (value, depth) == ("nested too deeply", MOST_LEVELS - 3)


@pytest.mark.parametrize("content", [b"", b'"', b'{"a": "\\', b"]}" * 500, b"[" * 500, b'["' * 500, b'"\\' * 500])
def test_what_is_no_json_stays_none(content: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(without_deep_values(content))
