"""openapi: members of objects that no property names, and the kinds that `patternProperties` and `additionalProperties`
give them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from fastgw.filters.policies.content.schemas import SchemaValidator

MemberKind = Mapping[str, Any]
"""Types of a member and the form that its text has, as `config.openapi.kinds` describes them."""
_FLAGS: Final = ("json", "bytes", "binary", "file")


@final
class OtherMembers:
    """Members by the schemas that are about all names. `plan`: `others` of `config.openapi.kinds.ValueKind`."""

    __slots__ = ("_schemas",)

    def __init__(self, plan: Sequence[Mapping[str, Any]]) -> None:
        self._schemas = [
            (
                frozenset(each["names"]),
                [(SchemaValidator({"pattern": pattern}), kind) for pattern, kind in each["patterns"].items()],
                each["rest"],
            )
            for each in plan
        ]  # patterns match as they do in the validation of the whole

    def __bool__(self) -> bool:
        return bool(self._schemas)

    @property
    def take_all(self) -> bool:
        """Whether there is a schema with a type for every name."""
        return any(rest is not None and not is_of_any_type(rest) for _, _, rest in self._schemas)

    def matches(self, name: str) -> bool:
        """Whether a name matches a pattern."""
        return any(pattern.is_valid(name) for _, patterns, _ in self._schemas for pattern, _ in patterns)

    def kind_of(self, name: str) -> MemberKind | None:
        """Return the kind of a member. None: no schema is about it."""
        found: list[MemberKind] = []
        for names, patterns, rest in self._schemas:
            matching = [kind for pattern, kind in patterns if pattern.is_valid(name)]
            if not matching and rest is not None and name not in names:
                matching.append(rest)
            found += matching
        return _combined([each for each in found if not is_of_any_type(each)] or found)

    def types_of(self, name: str) -> list[str]:
        """Return the types of a member; those of an array, and of its elements."""
        kind = self.kind_of(name)
        if kind is None:
            return []
        return [*kind["types"], "array"] if kind["shape"] == "array" else kind["types"]


def is_of_any_type(kind: MemberKind) -> bool:
    """Whether a schema without a type allows any value."""
    return kind["shape"] == "scalar" and not kind["types"]


def _combined(kinds: Sequence[MemberKind]) -> MemberKind | None:
    if len(kinds) < 2:
        return kinds[0] if kinds else None
    shapes = [each["shape"] for each in kinds]
    return {
        "shape": next((each for each in ("array", "object") if each in shapes), "scalar"),
        "types": [*dict.fromkeys(name for each in kinds for name in each["types"])],
        **{flag: any(each[flag] for each in kinds) for flag in _FLAGS},
    }
