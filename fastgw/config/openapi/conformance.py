"""Whether a document is written as OpenAPI has it: keys that are unknown or in the wrong place, values of another type.

What would change the meaning of the document is an error; what the gateway does not obey is a note.
"""

from typing import Any, Final

from fastgw.config.base.problems import Path, Problem, format_value, nearest, shorten, suggest, with_counts
from fastgw.config.base.redacted_problems import UNKNOWN_KEY, UNKNOWN_KEYWORD
from fastgw.config.base.schema_keywords import is_known, meant_by
from fastgw.config.decoding.decoder import Reading, Truth
from fastgw.config.openapi.document import Spec
from fastgw.config.openapi.files import Part
from fastgw.config.openapi.grammar import ELSEWHERE, OBJECTS, PUBLISHED, REFERABLE, SINCE_3_2

_SIMILARITY: Final = 0.75
_FLAGS: Final = ("nullable", "readOnly", "writeOnly")
"""Keywords of schemas that are obeyed, but are none of JSON Schema."""
_REQUIRING: Final = frozenset(("operation", "media type"))
"""Objects that are an error if all of their keys are unknown: they would require nothing of requests."""
_BESIDE_REFERENCES: Final = frozenset(("$ref", "summary", "description"))


def check_parts(spec: Spec) -> None:
    """Follow the references of a document, and report or note how its parts differ from OpenAPI."""
    check = _Check(spec)
    for part in spec.files.follow_references():
        check.check(part)
    check.end()


class _Check:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._notes: list[tuple[Reading, str | int, Problem]] = []

    def check(self, part: Part) -> None:
        value, shape, path, is_obeyed = part
        if shape == "text":
            self._check_type(part, False, "a string")
        elif shape == "flag":
            self._check_flag(part)
        elif shape.startswith("["):
            self._check_type(part, isinstance(value, list), "a list")
        elif shape == "schema":
            self._check_schema(part)
        elif self._check_type(part, isinstance(value, dict), "an object") and shape in OBJECTS:
            self._check_keys(part)
            if shape == "parameter" and "$ref" not in value and ("schema" in value) == ("content" in value):
                wrong = "both `schema` and `content`" if "schema" in value else "neither `schema` nor `content`"
                self._report_or_note(is_obeyed, path, wrong, "expected one of them, such as `schema: {type: string}`")

    def end(self) -> None:
        """Add the notes, equal ones of keys with the same name once."""
        for reading in self._spec.readings:
            by_key: dict[str | int, list[Problem]] = {}
            for each, key, note in self._notes:
                if each is reading:
                    by_key.setdefault(key, []).append(note)
            for number, note in enumerate(note for alike in by_key.values() for note in with_counts(alike)):
                reading.notes[UNKNOWN_KEY, number] = note

    def _check_type(self, part: Part, is_right: bool, expected: str) -> bool:
        if not is_right:
            self._report_or_note(part[3], part[2], shorten(format_value(part[0])), f"expected {expected}")
        return is_right

    def _check_flag(self, part: Part) -> None:
        value, _, at, is_obeyed = part
        if isinstance(value, bool):
            return
        if is_obeyed:
            reading, path = self._spec.origin(at)
            Truth().refuse(value, path, reading)
        else:
            self._check_type(part, False, Truth.expected)

    def _check_keys(self, part: Part) -> None:
        value, shape, path, is_obeyed = part
        keys = OBJECTS[shape]
        is_reference = "$ref" in value and shape in REFERABLE
        ignored = is_reference and shape not in ("path item", "operation")
        for key in value:
            at = (*path, key)
            if key in keys and (self._spec.is_3_2 or key not in SINCE_3_2):
                if ignored and key not in _BESIDE_REFERENCES:
                    self._note(at, "has no effect beside `$ref`", "expected it where `$ref` leads to")
            elif key == "$ref":
                if not is_reference:
                    self._report_or_note(
                        is_obeyed, at, "a reference is not followed here", "expected the object itself"
                    )
            elif not key.startswith("x-") and key != "<<":
                self._report_unknown(part, key, keys)

    def _report_unknown(self, part: Part, key: str, keys: Any) -> None:
        value, shape, path, is_obeyed = part
        at = (*path, key)
        known = {*keys, "$ref"} if shape in REFERABLE else keys
        homes = [name for name, its_keys in OBJECTS.items() if key in its_keys] if key in ELSEWHERE else []
        if shape == "path item" and key in SINCE_3_2:
            obeyed, expected = True, "expected `openapi: 3.2.x`"
        elif homes:
            obeyed, expected = True, f"expected it in {' or '.join(homes)}"
        elif (meant := nearest(key, known, _SIMILARITY)) is not None:
            obeyed, expected = meant not in PUBLISHED, f"did you mean {format_value(meant)}?"
        else:
            # Without any key of its kind it is another object, such as a file of operations in place of one of them.
            obeyed = shape in _REQUIRING and known.isdisjoint(value)
            expected = suggest(key, keys, similarity=_SIMILARITY)
        self._report_or_note(is_obeyed and obeyed, at, UNKNOWN_KEY, expected, at_key=True)

    def _check_schema(self, part: Part) -> None:
        value, _, path, is_obeyed = part
        if not isinstance(value, dict):
            return  # reported where it is compiled
        for key in _FLAGS:
            if key in value and not isinstance(value[key], dict):
                self._check_flag((value[key], "flag", (*path, key), is_obeyed))
        if "nullable" in value and not self._spec.is_3_0:
            self._note((*path, "nullable"), "`nullable` has no effect since OpenAPI 3.1", "expected a `type` with null")
        for key, each in value.items() if self._spec.is_3_0 else ():
            if not is_known(key) and meant_by(key, each) is None:  # else it is noted where it is compiled
                self._note((*path, key), UNKNOWN_KEYWORD, "expected `x-…` for an extension")
        if "discriminator" in value and "allOf" in value and not ("oneOf" in value or "anyOf" in value):
            expected = "expected `oneOf` or `anyOf` with the schemas to choose from"
            self._note((*path, "discriminator"), "`discriminator` chooses no schema beside `allOf`", expected)

    def _report_or_note(self, obeyed: bool, path: Path, wrong: str, expected: str, *, at_key: bool = False) -> None:
        if obeyed:
            self._spec.report(path, wrong, expected, at_key=at_key)
        else:
            self._note(path, wrong, expected)

    def _note(self, path: Path, wrong: str, expected: str) -> None:
        reading, at = self._spec.origin(path)
        self._notes.append((reading, path[-1], reading.document.problem(at, wrong, expected, at_key=True)))
