"""Filter types that a configuration brings with it: the packages under `extensions`, found before the rest is read.

What a package is and how a filter is imported is not known here: whoever hands over the filter types knows (`Types`).
"""

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Self

from fastgw.config.base.problems import Problem, show, suggest
from fastgw.config.sources.documents import Document

KEY = "extensions"


class UnknownType(Exception):
    """The name of a filter type is invalid; `expected`: what to write instead."""

    def __init__(self, wrong: str, expected: str = "") -> None:
        self.wrong, self.expected = wrong, expected
        super().__init__(wrong)


class Types(Mapping[str, type]):
    """Filter types that others can be added to."""

    @abstractmethod
    def extended(self, packages: Sequence[str]) -> tuple[Self, Mapping[str, UnknownType]]:
        """Return these types with those of the packages, and the errors of packages."""

    @property
    @abstractmethod
    def classes(self) -> Mapping[str, type]:
        """Classes that `of_class` was called for."""

    @abstractmethod
    def package_of(self, name: str) -> str:
        """The installed package that offers a type of this name, whether it may be used or not; "": there is none."""

    @abstractmethod
    def of_class(self, name: str) -> type:
        """The type of a `package.module:Class`. Raises `UnknownType`."""


def type_called(name: str, filter_types: Mapping[str, type]) -> type:
    """The filter type of a name, or of a `package.module:Class`. Raises `UnknownType`."""
    known = filter_types.get(name)
    if known is not None:
        return known
    if ":" in name and isinstance(filter_types, Types):
        return filter_types.of_class(name)
    wrong = f"unknown filter type {show(name)}"
    if isinstance(filter_types, Types):
        package = filter_types.package_of(name)
        if package:
            raise UnknownType(wrong, f"the package {package} has it: add it to `{KEY}`")
        if "." in name:
            raise UnknownType(wrong, 'a class is written as "package.module:Class"')
    raise UnknownType(wrong, suggest(name, filter_types))


def extended(
    documents: Iterable[Document], filter_types: Mapping[str, type]
) -> tuple[Mapping[str, type], list[Problem]]:
    """The filter types with those of the packages that the documents name, and what is wrong with packages.

    What is no list of texts is left to be told by who reads the document.
    """
    named = [(document, place, name) for document in documents for place, name in enumerate(_packages(document))]
    if not named or not isinstance(filter_types, Types):
        return filter_types, []
    types, wrong = filter_types.extended([name for _, _, name in named])
    return types, [
        document.problem((KEY, place), wrong[name].wrong, _beside(document, name) or wrong[name].expected)
        for document, place, name in named
        if name in wrong
    ]


def _beside(document: Document, name: str) -> str:
    """Say what to do where the package is no installed one, and lies beside the file that names it; "": it does not.
    Nothing is imported from there before that is asked for.
    """
    if not document.trusted or not document.quotes or not name.isidentifier() or find_spec(name) is not None:
        return ""
    for found in (f"{name}.py", f"{name}/__init__.py"):
        if os.path.isfile(os.path.join(document.folder, found)):
            return f"{found} is beside this file: install it, or start with --extension-dir {document.folder}"
    return ""


def _packages(document: Document) -> Sequence[str]:
    value = document.value
    named = value.get(KEY) if isinstance(value, dict) else None
    packages = [*map(document.plain_text, named)] if isinstance(named, list) else []
    return packages if all(packages) else ()
