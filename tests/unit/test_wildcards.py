"""Patterns with stars, as their readers expect, and on texts on which a careless search goes back."""

from __future__ import annotations

import re
from fnmatch import translate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.wildcards import wildcard_expression


def matches(pattern: str, text: str) -> bool:
    found = re.fullmatch(wildcard_expression(pattern), text, re.DOTALL)
    same = re.fullmatch(wildcard_expression(pattern.encode()), text.encode(), re.DOTALL)
    assert (found is None) is (same is None)
    return found is not None


@given(st.text("ab*é\n", max_size=8), st.text("abé\n", max_size=12))
def test_a_star_stands_for_any_characters(pattern: str, text: str) -> None:
    assert matches(pattern, text) is bool(re.fullmatch(translate(pattern), text))


@pytest.mark.parametrize("other", ["a.b", "a?b", "[ab]", "a+", "(a)", "a\\b", "^a$"])
def test_other_characters_stand_for_themselves(other: str) -> None:
    assert matches(other, other)
    assert matches(f"*{other}*", f"x{other}y")
    assert not matches(other, "a")


def test_many_stars_cost_the_length_of_the_text() -> None:
    """Where each star may go back to each place, 20 stars over 5,000 characters would not end in a lifetime."""
    assert not matches("*a" * 20 + "*b", "a" * 5000)
    assert matches("*a" * 20 + "*b", "a" * 5000 + "b")
