"""Filters of installed packages: only those named under `extensions` in the configuration.

A package offers filters as entry points of the group `fastgw.filters`, or a class is named as `package.module:Class`.
Nothing is imported that the operator has not named. An error in a package is reported in one line.
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Final, Self

from fastgw.config.base.problems import format_value, nearest
from fastgw.config.base.settings_codec import check_class
from fastgw.config.decoding.json_schema import schema
from fastgw.config.sources.extension_packages import Types, UnknownType
from fastgw.filters.api import API, Filter, Phase

GROUP: Final = "fastgw.filters"
"""Entry point group of filters."""


class FilterTypes(Types):
    """Filter types by name, in running order. `built_in`: filters that come with fastgw."""

    def __init__(self, built_in: Iterable[type[Filter]]) -> None:
        self._built_in = MappingProxyType({each.type_name: each for each in built_in})
        self._types: Mapping[str, type[Filter]] = self._built_in
        self._packages: tuple[str, ...] = ()
        self._classes: dict[str, type[Filter]] = {}

    def __getitem__(self, name: str) -> type[Filter]:
        return self._types[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._types)

    def __len__(self) -> int:
        return len(self._types)

    @property
    def built_in(self) -> Mapping[str, type[Filter]]:
        """Filter types that come with fastgw."""
        return self._built_in

    @property
    def classes(self) -> Mapping[str, type[Filter]]:
        """Filter types that are named as `package.module:Class`."""
        return self._classes

    def package_of(self, name: str) -> str:
        offered = metadata.entry_points(group=GROUP, name=name)
        return next((entry.dist.name for entry in offered if entry.dist is not None), "")

    def extended(self, packages: Sequence[str]) -> tuple[Self, Mapping[str, UnknownType]]:
        importlib.invalidate_caches()  # it may have been installed in the meantime
        made = type(self)(self._built_in.values())
        made._packages = tuple(dict.fromkeys((*self._packages, *packages)))
        types = dict(self._types)
        wrong = {}
        for offers in (_offered, self._in_module):  # entry points take precedence
            for package in dict.fromkeys(packages):
                try:
                    types |= {} if package in wrong else offers(package, types)
                except UnknownType as error:
                    wrong[package] = error
        made._types = MappingProxyType(types)
        return made, wrong

    def _in_module(self, package: str, known: Mapping[str, type[Filter]]) -> Mapping[str, type[Filter]]:
        """Return the filters of a module without entry points, by the names that they declare. One with the name of
        another package's filter is used as a class. Raises `UnknownType`.
        """
        if not package.isidentifier() or any(_is_of(each, package) for each in metadata.entry_points(group=GROUP)):
            return {}
        offered: dict[str, type[Filter]] = {}
        for class_name in _filters_in(package) if find_spec(package) is not None else ():
            found = _imported(package, class_name, "")
            _check_free(found.type_name, self._built_in, offered)
            if found.type_name not in known:
                offered[found.type_name] = found
        return offered

    def of_class(self, name: str) -> type[Filter]:
        if name not in self._classes:
            module, _, class_name = name.partition(":")
            if not any(_contains_module(package, module) for package in self._packages):
                package = module.partition(".")[0]
                raise UnknownType(
                    f"{format_value(name)} is of the package {format_value(package)}",
                    f"expected it under `extensions: [{package}]`",
                )
            self._classes[name] = _imported(module, class_name, "")
        return self._classes[name]


def _offered(package: str, known: Mapping[str, type[Filter]]) -> Mapping[str, type[Filter]]:
    """Return the filters that a package offers by entry points. Raises `UnknownType`."""
    points = [point for point in metadata.entry_points(group=GROUP) if _is_of(point, package)]
    if not points and not _is_installed(package):
        names = {point.dist.name for point in metadata.entry_points(group=GROUP) if point.dist is not None}
        near = nearest(package, names)
        expected = (
            f"did you mean {format_value(near)}?"
            if near
            else "expected the name of an installed package, as pip shows it"
        )
        raise UnknownType(f"package {format_value(package)} is not installed", expected)
    offered: dict[str, type[Filter]] = {}
    for point in points:
        _check_free(point.name, known, offered)
        module, _, class_name = point.value.partition(":")
        offered[point.name] = _imported(module.strip(), class_name.partition("[")[0].strip(), point.name)
    return offered


def _check_free(name: str, *known: Mapping[str, type[Filter]]) -> None:
    """Raise `UnknownType` if there is a filter with this name."""
    same = next((types[name] for types in known if name in types), None)
    if same is not None:
        owner = same.__module__.partition(".")[0]
        raise UnknownType(f"its filter {format_value(name)} has the name of a filter of {format_value(owner)}")


def _filters_in(package: str) -> list[str]:
    """Return the names of the filter classes that a module or package has, and that are its own: classes with a phase,
    which bases of others have not. Raises `UnknownType`.
    """
    own = {
        each: name
        for name, each in reversed(vars(_module(package)).items())  # an alias follows its class
        if isinstance(each, type)
        and issubclass(each, Filter)
        and hasattr(each, "phase")
        and f"{each.__module__}.".startswith(f"{package}.")
    }
    return [*own.values()]


def _is_of(point: metadata.EntryPoint, package: str) -> bool:
    """Whether the entry point belongs to a package, by its distribution or import name."""
    by_pip = point.dist is not None and _normal(point.dist.name) == _normal(package)
    return by_pip or _contains_module(package, point.value.partition(":")[0].strip())


def _contains_module(package: str, module: str) -> bool:
    """Whether a module belongs to a package, by its import or distribution name."""
    if module == package or module.startswith(f"{package}."):
        return True
    top = module.partition(".")[0]
    try:
        return top in _top_level(metadata.distribution(package))
    except (metadata.PackageNotFoundError, ValueError):
        return False


def _top_level(distribution: metadata.Distribution) -> set[str]:
    """Return the import names of a distribution."""
    names = (distribution.read_text("top_level.txt") or "").split()
    files = distribution.files or ()
    return {*names, *(file.parts[0].removesuffix(".py") for file in files if file.suffix == ".py")}


def _is_installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except (metadata.PackageNotFoundError, ValueError):
        try:
            return find_spec(package) is not None
        except (ImportError, AttributeError, ValueError):  # a parent package is missing
            return False
    return True


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _imported(module: str, class_name: str, name: str) -> type[Filter]:
    """Import a filter class. `name`: its required name; "" = any. Raises `UnknownType`."""
    where = f"{module}:{class_name}"
    found: Any = _module(module)
    try:
        for part in class_name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        near = nearest(class_name, [each for each in vars(importlib.import_module(module)) if each[0] != "_"])
        expected = f"did you mean {format_value(f'{module}:{near}')}?" if near else ""
        raise UnknownType(f"{format_value(module)} has no class {format_value(class_name)}", expected) from error
    _check(found, where, name)
    filter_type: type[Filter] = found
    return filter_type


def _module(module: str) -> Any:
    """Import a module. Raises `UnknownType`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (
            "" if error.name and f"{module}.".startswith(f"{error.name}.") else f": it needs {format_value(error.name)}"
        )
        raise UnknownType(f"there is no module {format_value(module)}{missing}") from error
    except (Exception, SystemExit) as error:  # the edge of third-party code: its exception is reported
        raise UnknownType(f"{format_value(module)} cannot be imported: {_error_text(error)}") from error


def _check(found: Any, where: str, name: str) -> None:
    """Check that it is a filter for this version. Raises `UnknownType`."""
    if not isinstance(found, type) or not issubclass(found, Filter):
        raise UnknownType(
            f"{format_value(where)} is not a filter", "expected a subclass of `fastgw.filters.api.Filter`"
        )
    if not hasattr(found, "phase"):
        expected = f"expected `class {found.__name__}(Filter, name=…, phase=Phase.…)`"
        raise UnknownType(f"{format_value(where)} has no phase", expected)
    if not isinstance(found.phase, Phase):
        meant = nearest(str(found.phase).upper(), Phase.__members__)
        expected = f"did you mean `Phase.{meant}`?" if meant else f"expected one of {', '.join(Phase.__members__)}"
        raise UnknownType(f"the phase of {format_value(where)} is not a `Phase`", expected)
    if type(found.order) is not int:
        raise UnknownType(f"the order of {format_value(where)} is not an integer")
    if found.api != API:
        raise UnknownType(
            f"{format_value(where)} is written for filter API version {found.api}", f"expected {API}, which fastgw has"
        )
    if name and found.type_name != name:
        expected = "expected the entry point to have the same name"
        raise UnknownType(
            f"{format_value(where)} is called {format_value(found.type_name)}, and not {format_value(name)}", expected
        )
    try:
        schema({found.type_name: found})
        check_class(found)
    except Exception as error:  # the edge of third-party code: annotations may be arbitrary
        raise UnknownType(f"the settings of {format_value(where)} cannot be read: {_error_text(error)}") from error


def _error_text(error: BaseException) -> str:
    """Describe an exception in one line."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
