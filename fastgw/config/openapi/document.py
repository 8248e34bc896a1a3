"""An OpenAPI document with its positions: references within it and its files, and problems at file and line.

All walks are bounded in depth, because aliases of YAML may nest deeper than the text does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from fastgw.config.base.problems import Path, format_value, shorten
from fastgw.config.decoding.decoder import Reading
from fastgw.config.openapi.files import DocumentFiles, value_at

DEEPEST: Final = 150
"""Maximum nesting depth of schemas, and maximum number of references that lead to one another."""
_VERSIONS: Final = ("3.0.", "3.1.", "3.2.")

Holder = str | tuple[str, bool]
"""Holder of a schema: the number of a definition, or the name of an operation, and whether its responses have it."""


class Spec:
    """An OpenAPI document that is read. Problems are reported to `reading`, and to those of its other files."""

    def __init__(self, reading: Reading) -> None:
        self.files = DocumentFiles(reading)
        self._reported: set[tuple[Path, str, str]] = set()
        self._holder: Holder | None = None
        self.of_schemas: list[tuple[Holder, Path, str, str, bool]] = []
        """Problems of schemas, by what has the schema."""
        self.value: dict[str, Any] = reading.document.value
        version = self.value.get("openapi")
        text = version if isinstance(version, str) else str(version or "")
        self.is_3_0 = text.startswith("3.0.")
        """Whether schemas are those of OpenAPI 3.0, which are not JSON Schema."""
        self.is_3_2 = text.startswith("3.2.")
        self.base_paths: dict[Path, str] = {}
        """Paths of the first servers, by the path of what has them."""
        self.is_supported = text.startswith(_VERSIONS)
        if not self.is_supported:
            has_one = "openapi" in self.value
            wrong = f"version {shorten(format_value(version))}" if has_one else "not an OpenAPI document"
            if "swagger" in self.value:
                wrong = "Swagger 2.0 is not supported"
            self.report(("openapi",), wrong, "expected `openapi: 3.0.x`, 3.1.x or 3.2.x")

    def origin(self, path: Path) -> tuple[Reading, Path]:
        """Return the file of a part of the document, and the path of the part in it."""
        return self.files.origin(path)

    @property
    def problem_count(self) -> int:
        """Number of problems of all files, and of schemas."""
        return sum(len(each.problems) for each in self.readings) + len(self.of_schemas)

    @property
    def readings(self) -> list[Reading]:
        """The document as it was read, and its other files."""
        return [self.origin(())[0], *self.files.readings.values()]

    def report(self, path: Path, wrong: str, expected: str = "", *, at_key: bool = False) -> None:
        if self._holder is not None:
            self.of_schemas.append((self._holder, path, wrong, expected, at_key))
        elif (path, wrong, expected) not in self._reported:
            self._reported.add((path, wrong, expected))
            reading, at = self.origin(path)
            reading.report(at, wrong, expected, at_key=at_key)

    @contextmanager
    def problems_of(self, holder: Holder) -> Iterator[None]:
        """Keep the problems of a schema in `of_schemas` instead of reporting them."""
        before, self._holder = self._holder, holder
        try:
            yield
        finally:
            self._holder = before

    def note(self, path: Path, wrong: str, expected: str) -> None:
        """Note what is probably a mistake at a key, but not an error."""
        reading, at = self.origin(path)
        reading.note(at, wrong, expected)

    def mapping(self, value: Any, path: Path) -> dict[str, Any]:
        """Return an object; an empty one, with a problem, for anything else."""
        if isinstance(value, dict):
            if "<<" in value:
                self.report((*path, "<<"), "merge keys are not supported", "expected the keys themselves", at_key=True)
            return value
        self.report(path, shorten(format_value(value)), "expected an object")
        return {}

    def mapping_at(self, holder: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
        """Return the object under a key, or an empty one if there is none."""
        return self.mapping(holder[key], (*path, key)) if key in holder else {}

    def items(self, holder: dict[str, Any], key: str, path: Path) -> Iterator[tuple[Any, Path]]:
        """Yield the elements of the list under a key, with their paths."""
        listed = holder.get(key, [])
        if not isinstance(listed, list):
            self.report((*path, key), shorten(format_value(listed)), "expected a list")
            return
        for index, each in enumerate(listed):
            yield each, (*path, key, index)

    def target(self, reference: Any, path: Path) -> tuple[Any, Path] | None:
        """Return what a `$ref` at a path refers to, and its path; None, with a problem: there is no such thing."""
        if not isinstance(reference, str):
            self.report((*path, "$ref"), shorten(format_value(reference)), "expected a string")
            return None
        found = self.looked_up(reference)
        if found is None:
            said = (
                f"{shorten(format_value(reference))} does not exist",
                "expected a reference to a part of this document",
            )
            self.report((*path, "$ref"), *self.files.refused.get(path, said))
        return found

    def looked_up(self, reference: str) -> tuple[Any, Path] | None:
        """Return what a reference leads to, and its path. None: it does not exist in this document."""
        return value_at(self.value, reference[1:]) if reference.startswith("#") else None

    def resolved(self, value: Any, path: Path) -> tuple[dict[str, Any], Path] | None:
        """Return an object that may be given by `$ref`, and its path. None, with a problem: there is none."""
        met: list[Path] = []
        while isinstance(value, dict) and "$ref" in value:
            if path in met or len(met) > DEEPEST:
                self.report((*path, "$ref"), "the reference leads back to itself", "expected a definition")
                return None
            met.append(path)
            found = self.target(value["$ref"], path)
            if found is None:
                return None
            value, path = found
        held = self.mapping(value, path)
        return (held, path) if held is value else None
