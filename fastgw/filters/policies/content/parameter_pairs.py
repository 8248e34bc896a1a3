"""Names and values of queries, forms and cookies: counted before they are read."""

from __future__ import annotations

from typing import Any, Final

from fastgw.filters.policies.content.number_comparisons import parameters_take_long_to_check

MOST_PAIRS: Final = 1000
"""Maximum number of names and values of a query, of a form, or of all cookies.

PERF: 65,500 fields of a form of 128 KiB take 60 ms, 1,000 take 1 (CPython 3.11)."""


class Unreadable(ValueError):
    """A text that is not what a parameter or body may be. `keyword`, and the text for the client."""

    def __init__(self, keyword: str, detail: str) -> None:
        super().__init__(detail)
        self.keyword, self.detail = keyword, detail


def pairs_in(text: bytes, delimiter: bytes, called: str) -> list[bytes]:
    """Return the pairs of a text that are not empty. `called`: what they are, for the client. Raises `Unreadable`, if
    there are too many.
    """
    check_count(text.count(delimiter) + 1, called)
    return [pair for pair in text.split(delimiter) if pair]


def check_count(count: int, called: str) -> None:
    """Raise `Unreadable` for more values than a request may have."""
    if count > MOST_PAIRS:
        raise Unreadable("maxItems", f"expected at most {MOST_PAIRS} {called}")


def check_numbers(value: Any, listed: int) -> None:
    """Raise `Unreadable` for more numbers than parameters may have, because their comparison takes long. `value`: an
    array, or an object whose members may be arrays. `listed`: numbers that the schema lists (`numbers_listed`).
    """
    if parameters_take_long_to_check(value, listed):
        raise Unreadable("maxItems", "expected fewer numbers")
