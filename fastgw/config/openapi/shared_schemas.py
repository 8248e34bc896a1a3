"""Schemas that operations share, by the place in their document: for comparisons of two versions of it.

Numbers of definitions differ between versions as soon as one is added, so definitions are identified by their places.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from fastgw.config.openapi.schemas import DEFINITIONS, PLACES

_REFERENCE: Final = re.compile(re.escape(f"{DEFINITIONS}#/$defs/") + r"(\d+)")


class SharedSchemas:
    """The definitions of a derived file with schemas. `content`: of the file."""

    def __init__(self, content: bytes) -> None:
        held = msgspec.json.decode(content)
        self._places: Mapping[str, str] = held.get(PLACES, {})
        self._texts: dict[str, str] = {}
        self._uses: dict[str, frozenset[str]] = {}
        for number, schema in held["$defs"].items():
            place, text = self._place(number), msgspec.json.encode(schema).decode()
            self._texts[place] = self.named(text)
            self._uses[place] = self._used(text)

    def named(self, text: str) -> str:
        """Return a text with the places of definitions instead of their numbers."""
        return _REFERENCE.sub(lambda found: self._place(found[1]), text)

    def used_by(self, operation: str) -> Mapping[str, str]:
        """Return the definitions that an operation uses, also through others, by place."""
        used: dict[str, str] = {}
        waiting = [*self._used(operation)]
        while waiting:
            place = waiting.pop()
            if place not in used:
                used[place] = self._texts.get(place, "")
                waiting += self._uses.get(place, ())
        return used

    def _used(self, text: str) -> frozenset[str]:
        return frozenset(self._place(found[1]) for found in _REFERENCE.finditer(text))

    def _place(self, number: str) -> str:
        return self._places.get(number, number)


def changed_places(old: Mapping[str, str], new: Mapping[str, str]) -> Iterable[str]:
    """Return the places of definitions that two versions of an operation use with other contents, in order."""
    return sorted(place for place, text in new.items() if old.get(place, text) != text)
