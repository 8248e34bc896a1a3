"""Schemas that operations share, by the location in their document: for comparisons of two versions of it.

Numbers of definitions differ between versions as soon as one is added; their locations stay the same.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from fastgw.config.openapi.schemas import DEFINITIONS, LOCATIONS

_REFERENCE: Final = re.compile(re.escape(f"{DEFINITIONS}#/$defs/") + r"(\d+)")


class SharedSchemas:
    """The definitions of a derived file with schemas. `content`: of the file."""

    def __init__(self, content: bytes) -> None:
        held = msgspec.json.decode(content)
        self._locations: Mapping[str, str] = held.get(LOCATIONS, {})
        self._texts: dict[str, str] = {}
        self._uses: dict[str, frozenset[str]] = {}
        for number, schema in held["$defs"].items():
            location, text = self._location(number), msgspec.json.encode(schema).decode()
            self._texts[location] = self.named(text)
            self._uses[location] = self._used(text)

    def named(self, text: str) -> str:
        """Return a text with the locations of definitions instead of their numbers."""
        return _REFERENCE.sub(lambda found: self._location(found[1]), text)

    def used_by(self, operation: str) -> Mapping[str, str]:
        """Return the definitions that an operation uses, also through others, by location."""
        used: dict[str, str] = {}
        waiting = [*self._used(operation)]
        while waiting:
            location = waiting.pop()
            if location not in used:
                used[location] = self._texts.get(location, "")
                waiting += self._uses.get(location, ())
        return used

    def _used(self, text: str) -> frozenset[str]:
        return frozenset(self._location(found[1]) for found in _REFERENCE.finditer(text))

    def _location(self, number: str) -> str:
        return self._locations.get(number, number)


def changed_schemas(old: Mapping[str, str], new: Mapping[str, str]) -> Iterable[str]:
    """Return the locations of definitions that two versions of an operation use with other contents, in order."""
    return sorted(location for location, text in new.items() if old.get(location, text) != text)
