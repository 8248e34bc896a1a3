"""openapi: members of objects for which neither `properties` nor `additionalProperties` have a type, and the kinds that
other schemas give them: `patternProperties`, `then`, keywords beside a reference, and the like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, final

from fastgw.filters.policies.content.schemas import SchemaValidator, UnusableSchema, compile_schema

MemberKind = Mapping[str, Any]
"""`shape` and `types` of a member, as `config.openapi.kinds` describes them."""
_TEXT: Final[MemberKind] = {"shape": "scalar", "types": ()}
"""Kind of a member whose text could be read in two ways: it is left as it is."""


@final
class LikelyMembers:
    """Members by the schemas that may apply to them. `plan`: `ValueKind.likely_members` of `config.openapi.kinds`."""

    __slots__ = ("_excluding", "_schemas")

    def __init__(self, plan: Sequence[Mapping[str, Any]]) -> None:
        self._schemas = [
            (
                each["names"],
                [(_pattern(pattern), kind) for pattern, kind in each["patterns"].items()],
                each["rest"],
                frozenset(each["known"]),
            )
            for each in plan
        ]
        self._excluding = [
            patterns for (_, patterns, _, _), each in zip(self._schemas, plan, strict=True) if each["excludes"]
        ]

    def excludes(self, name: str) -> bool:
        """Whether no `additionalProperties` is about a name, because it matches a pattern."""
        return bool(self._excluding) and all(
            any(pattern.is_valid(name) for pattern, _ in patterns) for patterns in self._excluding
        )

    def kind_of(self, name: str) -> MemberKind | None:
        """Return the kind of a member. None: no schema has a type for it."""
        found: list[MemberKind | None] = []
        for names, patterns, rest, known in self._schemas:
            if name in names:
                found.append(names[name])
            matching = [kind for pattern, kind in patterns if pattern.is_valid(name)]
            found += matching
            if not matching and name not in known:
                found.append(rest)
        kinds = [each for each in found if each is not None]
        if len(kinds) < 2:
            return kinds[0] if kinds else None
        shape = kinds[0]["shape"]
        if any(each["shape"] != shape for each in kinds):
            return _TEXT
        has_texts = any(not each["types"] for each in kinds)
        return {"shape": shape, "types": () if has_texts else [name for each in kinds for name in each["types"]]}

    def types_of(self, name: str) -> list[str] | None:
        """Return the types of a member of a parameter; those of an array, and of its elements. None: it has none."""
        kind = self.kind_of(name)
        if kind is None:
            return None
        return [*kind["types"], "array"] if kind["shape"] == "array" else [*kind["types"]]


NO_MEMBERS: Final = LikelyMembers(())


@lru_cache(10_000)
def _pattern(text: str) -> SchemaValidator:
    """Return what matches a pattern as the validation of the whole does."""
    try:
        return compile_schema({"pattern": text})
    except UnusableSchema:  # it is reported with the whole
        return compile_schema(False)
