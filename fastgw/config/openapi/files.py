"""Files that an OpenAPI document refers to: they become parts of it, so that every reference leads to a part.

A file is followed within the folder of the document alone, with all links resolved. Nothing is fetched.
"""

import os
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any, Final
from urllib.parse import quote, unquote

from fastgw.config.base.problems import Path, format_value, shorten
from fastgw.config.base.schema_keywords import schemas_below
from fastgw.config.decoding.decoder import Reading
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.openapi.grammar import MAPS, OBJECTS, PUBLISHED, REFERABLE, VALUES, WITH_EXTENSIONS
from fastgw.config.sources.documents import Document
from fastgw.config.sources.virtual_files import is_derived
from fastgw.json_pointer import pointer_of, unescaped

FILES: Final = "x-fastgw-files"
"""Key of a document under which its other files are, by their names in its folder."""
SUFFIXES: Final = (".yaml", ".yml", ".json")
MOST_FILES: Final = 10_000
"""Maximum number of files of a document."""
_HOLDERS: Final[dict[str, type]] = {"[": list, "{": dict}
_EXPECTED: Final = "expected a reference to a part of this document, or to a file in its folder"


Part = tuple[Any, str, Path, bool]
"""A value of a document, its shape by the grammar (`grammar.OBJECTS`), its path, and whether the gateway obeys it, not
only publishes it."""


class DocumentFiles:
    """The files of a document. `readings`: of the other ones, by name."""

    def __init__(self, reading: Reading) -> None:
        self.readings: dict[str, Reading] = {}
        self.refused: dict[Path, tuple[str, str]] = {}
        """References that are not followed, by the path of what has them: the error, and what is expected."""
        self._main = reading
        self._name = os.path.normpath(reading.document.name)
        self._folder = reading.document.folder
        self._key = FILES
        while self._key in reading.document.value:  # a document that has been made of files already
            self._key += "-"
        self._referred: set[Path] = set()
        """Paths of what something refers to."""
        self._met: set[tuple[int, str]] = set()
        self._waiting: deque[Part] = deque()

    def origin(self, path: Path) -> tuple[Reading, Path]:
        """Return the file of a part of the document, and the path of the part in it."""
        if path[:1] == (self._key,) and len(path) > 1:
            return self.readings[str(path[1])], path[2:]
        return self._main, path

    def follow_references(self) -> Iterator[Part]:
        """Read the files that the document refers to, and write all references to them as those to its parts. Yields
        each part that the grammar knows once (`parts_below`), those that the gateway obeys first.
        """
        waiting = self._waiting
        waiting.append((self._main.document.value, "document", (), True))
        while waiting:
            part = waiting.pop()
            value, shape, _, _ = part
            if isinstance(value, dict | list):
                key = id(value), shape
                if key in self._met:
                    continue
                self._met.add(key)
                for each in parts_below(part):
                    self._add(each)
                if isinstance(value, dict) and shape in REFERABLE:
                    self._follow_from(value, part)
            yield part

    def referred_value(self) -> dict[str, Any]:
        """Return the document, with those parts of its other files that something refers to."""
        value: dict[str, Any] = self._main.document.value
        if not self.readings:
            return value
        paths = {path[1:] for path in self._referred if path[:1] == (self._key,)}
        return value | {self._key: _parts_at(value[self._key], paths)}

    def _add(self, part: Part) -> None:
        (self._waiting.append if part[3] else self._waiting.appendleft)(part)

    def _follow_from(self, value: dict[str, Any], part: Part) -> None:
        _, shape, path, _ = part
        if isinstance(value.get("$ref"), str):
            value["$ref"] = self._followed(value["$ref"], part, path)
        mapping = _mapping_of(value) if shape == "schema" and "discriminator" in value else {}
        for name, meant in mapping.items():
            if isinstance(meant, str) and ("/" in meant or "#" in meant or meant.endswith(SUFFIXES)):
                mapping[name] = self._followed(meant, part, (*path, "discriminator", "mapping", name))

    def _followed(self, reference: str, holder_part: Part, path: Path) -> str:
        """Return a reference as one to a part of the document, or as it is if it leads to none."""
        file, _, fragment = reference.partition("#")
        holder = str(path[1]) if path[:1] == (self._key,) else ""
        if not file and (not holder or reference.startswith(f"#/{self._key}/")):
            found = value_at(self._main.document.value, fragment)  # also rewritten: YAML has aliases
        else:
            name = self._named(file, holder, path) if file else holder
            part = None if name is None else self._value(name, path)
            found = None if part is None else value_at(part, fragment)
            if found is None:
                self.refused.setdefault(path, (f"{shorten(format_value(reference))} does not exist", _EXPECTED))
                return reference
            at = (self._key, name, *found[1]) if name else found[1]
            found = found[0], at
            reference = "#" + quote(pointer_of(at), safe="/~:@!$&'()*+,;=")
        if found is not None:
            self._referred.add(found[1])
            self._add((found[0], holder_part[1], found[1], holder_part[3]))
        return reference

    def _named(self, file: str, holder: str, path: Path) -> str | None:
        """Return the name of a file within the folder; "": the document itself. None, with a reason: it is not there.

        `holder`: name of the file that refers to it.
        """
        wrong = shorten(format_value(file))
        name = os.path.normpath(os.path.join(self._folder, os.path.dirname(holder), unquote(file)))
        inside = os.path.join(os.path.realpath(self._folder), "")
        if "://" in file or file.startswith(("/", "file:")) or is_derived(self._name):
            self.refused[path] = f"{wrong}: references to other documents are not followed", _EXPECTED
        elif "\0" in name or not os.path.realpath(name).startswith(inside):
            self.refused[path] = f"{wrong} is outside the folder of the document", _EXPECTED
        else:
            relative = os.path.relpath(name, self._folder)
            return "" if name == self._name else relative
        return None

    def _value(self, name: str, path: Path) -> Any:
        """Return the value of a file, which is read once. None: it has none; that is reported, or the reason is."""
        main = self._main
        if not name:
            return main.document.value
        if name not in self.readings:
            if len(self.readings) >= MOST_FILES:
                self.refused[path] = f"more than {MOST_FILES} files", "expected fewer"
                return None
            absolute = os.path.join(self._folder, name)
            read = partial(main.files.read, absolute)
            try:
                read()
            except SyntaxProblem as flaw:
                self.refused[path] = f"{shorten(format_value(name))} {flaw.wrong}", _EXPECTED
                return None
            suffix = "" if name.endswith(SUFFIXES) else ".yaml"
            said = main.document
            document = Document(absolute, read, suffix=suffix, trusted=said.trusted, quotes=said.quotes)
            self.readings[name] = Reading(document, main.filter_types, main.files, [*document.problems])
            said.value.setdefault(self._key, {})[name] = document.value
        return self.readings[name].document.value


def value_at(value: Any, fragment: str) -> tuple[Any, Path] | None:
    """Return what a JSON Pointer in a URI fragment (RFC 6901 section 6) leads to, and its path. None: it does not
    exist, or the fragment is no pointer.
    """
    pointer = unquote(fragment)
    if pointer and not pointer.startswith("/"):
        return None
    at: list[str | int] = []
    for step in map(unescaped, pointer.split("/")[1:]):
        key: str | int = step
        if isinstance(value, list) and step.isascii() and step.isdigit():
            key = int(step[:9])
            if key >= len(value):
                return None
        elif not isinstance(value, dict) or step not in value:
            return None
        at.append(key)
        value = value[key]
    return value, tuple(at)


def parts_below(part: Part) -> list[Part]:
    """Return what is directly below a part of a document that the grammar knows, but for right single values, lists and
    objects by name, of which it is what they hold.
    """
    value, shape, path, is_obeyed = part
    if shape == "schema":
        return [(each, "schema", (*path, *at), is_obeyed) for at, each in schemas_below(value)]
    if isinstance(value, list):
        inner = shape[1:] if shape.startswith("[") else ""
        return [(each, inner, (*path, index), is_obeyed) for index, each in enumerate(value)] if inner else []
    if shape.startswith("{") or shape in MAPS:
        inner = MAPS.get(shape, shape[1:])
        skipped = ("x-",) if path and path[-1] in WITH_EXTENSIONS and path[0] != "components" else ()
        held = [] if inner == "any" else value.items()
        return [(each, inner, (*path, name), is_obeyed) for name, each in held if not name.startswith(skipped)]
    keys = OBJECTS.get(shape, {})
    found: list[Part] = []
    for key, each in value.items():
        held = keys.get(key)
        if held is None or isinstance(each, VALUES.get(held, ())):
            continue
        below = each, held, (*path, key), is_obeyed and key not in PUBLISHED
        if isinstance(each, _HOLDERS.get(held[0], ())):
            found += parts_below(below)
        else:
            found.append(below)
    return found


def _parts_at(value: Any, paths: set[Path]) -> Any:
    """Return what is at these paths in a value, each in its place."""
    if () in paths:
        return value
    below: dict[str | int, set[Path]] = {}
    for first, *others in paths:
        below.setdefault(first, set()).add(tuple(others))
    if isinstance(value, list):
        return [_parts_at(each, below[index]) if index in below else None for index, each in enumerate(value)]
    return {key: _parts_at(each, below[key]) for key, each in value.items() if key in below}


def _mapping_of(schema: Any) -> dict[str, Any]:
    said = schema.get("discriminator") if isinstance(schema, dict) else None
    mapping = said.get("mapping") if isinstance(said, dict) else None
    return mapping if isinstance(mapping, dict) else {}
