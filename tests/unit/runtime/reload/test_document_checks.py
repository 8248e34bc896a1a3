"""How much work a document may be that was sent to the API: values are counted, suggestions are few."""

from __future__ import annotations

import json

import pytest

from fastgw import config
from fastgw.config.base import problems
from fastgw.filters import TYPES

HEAD = "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\nadmin: null\nstatus: null\n"
MOST = 100
EXACT = HEAD + "routes: [" + "1, " * (MOST - 8) + "]\n"
"""Its values: the document, five of the top, a listener and its address, and so many numbers."""


def wrong(text: str, suffix: str = ".yaml", most: int | None = MOST) -> list[str]:
    with pytest.raises(config.ConfigError) as caught:
        config.load_text(text.encode(), f"/nowhere/posted{suffix}", TYPES, suffix, trusted=False, most_values=most)
    return [each.wrong for each in caught.value.problems]


BOUND = f"more than {MOST} values; the limit follows from admin.document_bytes"


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        (HEAD + "routes: [" + "[]," * MOST + "]\n", ".yaml"),
        (HEAD + "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\nroutes: [" + "*a," * 10 + "]\n", ".yaml"),
        (json.dumps({"routes": [{}] * MOST}), ".json"),
        ("routes = [" + "{}," * MOST + "]\n", ".toml"),
        (HEAD + "".join(f"k{number}: 1\n" for number in range(MOST)), ".yaml"),
    ],
    ids=["lists", "aliases", "json", "toml", "keys"],
)
def test_more_values_than_that_are_refused_before_any_is_judged(text, suffix):
    assert wrong(text, suffix) == [BOUND]


def test_exactly_so_many_are_judged():
    assert BOUND not in wrong(EXACT)
    assert wrong(EXACT, most=MOST - 1) == [BOUND.replace(str(MOST), str(MOST - 1))]


def test_a_file_may_have_any_number():
    assert BOUND not in wrong(HEAD + "routes: [" + "[]," * MOST + "]\n", most=None)


def test_deeper_than_anything_is_told_as_that():
    assert "nested" in wrong(HEAD + "routes: " + "[" * 500 + "]" * 500 + "\n", most=10_000)[0]


def test_after_many_mistakes_nothing_is_suggested_any_more(monkeypatch):
    """A suggestion compares a name with all that there are: a document of mistakes would take minutes."""
    compared = []
    compare = problems.get_close_matches
    monkeypatch.setattr(
        problems, "get_close_matches", lambda *told, **more: compared.append(1) or compare(*told, **more)
    )
    for _ in range(2):  # each reading has its own
        compared.clear()
        assert len(wrong(HEAD + "".join(f"k{number}: 1\n" for number in range(700)), most=None)) == 700
        assert len(compared) == problems.MOST_HINTS


def test_a_name_is_not_compared_with_thousands():
    upstreams = "".join(f"  u{number}: {{targets: ['http://a:1']}}\n" for number in range(problems.NAMES_COMPARED + 1))
    routes = "routes: [{name: a, upstream: uu1}]\n"
    text = f"{HEAD}upstreams:\n{upstreams}{routes}"
    with pytest.raises(config.ConfigError) as caught:
        config.load_text(text.encode(), "/nowhere/a.yaml", TYPES, most_values=None)
    (problem,) = caught.value.problems
    assert not problem.hint
    assert problem.expected.endswith("more")
