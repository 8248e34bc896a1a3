"""Filter types of extensions: the packages under `extensions`, found before the rest of a configuration is read.

This module does not know what a package is or how a filter is imported: callers pass the filter types (`Types`).
"""

import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Self

from fastgw.config.base.names_elsewhere import FILTERS, is_advice
from fastgw.config.base.problems import Problem, format_value, suggest
from fastgw.config.sources.documents import Document

KEY = "extensions"


class UnknownType(Exception):
    """The name of a filter type is invalid; `expected`: what to write instead."""

    def __init__(self, wrong: str, expected: str = "") -> None:
        self.wrong, self.expected = wrong, expected
        super().__init__(wrong)


class Types(Mapping[str, type]):
    """Filter types that can be extended."""

    @abstractmethod
    def extended(self, packages: Sequence[str]) -> tuple[Self, Mapping[str, UnknownType]]:
        """Return these types with those of the packages, and the packages' errors."""

    @property
    @abstractmethod
    def classes(self) -> Mapping[str, type]:
        """Classes requested by `of_class`."""

    @abstractmethod
    def package_of(self, name: str) -> str:
        """Return the installed package that provides this type, allowed or not; "" = none."""

    @abstractmethod
    def of_class(self, name: str) -> type:
        """Return the type of a `package.module:Class`. Raises `UnknownType`."""


def type_called(name: str, filter_types: Mapping[str, type]) -> type:
    """Return the filter type with this name, or of a `package.module:Class`. Raises `UnknownType`."""
    known = filter_types.get(name)
    if known is not None:
        return known
    if ":" in name and isinstance(filter_types, Types):
        return filter_types.of_class(name)
    wrong = f"unknown filter type {format_value(name)}"
    if isinstance(filter_types, Types):
        package = filter_types.package_of(name)
        if package:
            raise UnknownType(wrong, f"the package {package} has it: add it to `{KEY}`")
        if "." in name:
            module, _, class_name = name.rpartition(".")
            raise UnknownType(wrong, f'a class is written as "package.module:Class", here "{module}:{class_name}"')
    here = FILTERS.get(name, name)
    raise UnknownType(wrong, here if is_advice(here) else suggest(here, filter_types))


def extended(
    documents: Iterable[Document], filter_types: Mapping[str, type]
) -> tuple[Mapping[str, type], list[Problem]]:
    """Return the filter types with those of the packages that the documents name, and problems with packages.

    Values other than a list of strings are reported by the decoder.
    """
    named = [(document, index, name) for document in documents for index, name in enumerate(_packages(document))]
    if not named or not isinstance(filter_types, Types):
        return filter_types, []
    types, wrong = filter_types.extended([name for _, _, name in named])
    return types, [
        document.problem((KEY, index), wrong[name].wrong, _local_package_hint(document, name) or wrong[name].expected)
        for document, index, name in named
        if name in wrong
    ]


def _local_package_hint(document: Document, name: str) -> str:
    """Return advice for a package that is not installed but lies beside the file that names it; "" = it does not. It is
    not imported from there.
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
