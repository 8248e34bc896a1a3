"""Header values that a firewall has to search: not those of names that are skipped, and not those that are known."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Protocol

UNSKIPPED = b"${"
"""Text with which a value is searched whatever its name is: services log any header (Log4Shell)."""

FILENAME = b"filename=%b"
"""A file name as a part of a multipart body has it."""


class SearchedHeaders(Protocol):
    """Headers of a request: its head, or a copy of it."""

    def fields(self) -> Iterable[tuple[bytes, bytes]]: ...
    def values(self, name: bytes) -> list[bytes]: ...


def _unknown_values(
    headers: SearchedHeaders,
    skipped: frozenset[bytes],
    of_files: frozenset[bytes],
    known: Collection[bytes],
    known_cookies: Collection[bytes],
) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """Return the names and values of the headers that have to be searched, and the lines of cookies.

    `skipped`: lower-case names, `cookie` among them. `of_files`: names whose values are names of files; these are
    returned as `FILENAME`, even if they are known. `known`, `known_cookies`: values that need no search.
    """
    values = []
    for name, value in headers.fields():
        folded = name.lower()
        if folded in of_files:
            values.append((name, FILENAME % value))
        elif value not in known and (folded not in skipped or UNSKIPPED in value):
            values.append((name, value))
    return values, [line for line in headers.values(b"cookie") if line not in known_cookies]


if TYPE_CHECKING:
    unknown_values = _unknown_values
else:
    from fastgw.filters.policies.waf._header_values import unknown_values as unknown_values
