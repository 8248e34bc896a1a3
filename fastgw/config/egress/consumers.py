"""Authentication and authorization of applications of `egress`: filters that run before those of their services.

They are the ordinary filters. Credentials of applications are for the gateway only, so they are never forwarded,
whatever the settings say.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from fastgw.config.base.problems import Problem, format_value, nearest, suggest
from fastgw.config.decoding.decoder import BROKEN, Structure
from fastgw.config.decoding.merge import Merged, SourceLocation
from fastgw.config.settings.egress import Egress
from fastgw.config.settings.gateway import FilterUse
from fastgw.config.sources.extension_packages import UnknownType, type_called

AUTHENTICATION: Final = "app_authentication"
AUTHORIZATION: Final = "app_consumers"
"""Names of the generated filter instances."""
_WAYS: Final = ("certificates", "key_auth", "basic_auth", "hmac")
"""Credentials of a consumer that authenticate without further settings; tokens need settings of their own."""
_TYPES: Final = {"certificates": "certificate_auth"}


class Guard(NamedTuple):
    """Authentication of one application and authorization of its consumers."""

    location: SourceLocation
    filters: Mapping[str, FilterUse]
    made_of: tuple[str, ...]
    """Inputs of the guard: equal for equal guards."""


def guards(
    merged: Merged, egress: Egress, filter_types: Mapping[str, type], listeners: Iterable[str], notes: list[Problem]
) -> dict[str, Guard]:
    """Return the guard of each application with `consumers`. Reports problems, and adds notes to `notes`."""
    if not merged.app_consumers:
        return {}
    return dict(_Guards(merged, egress, filter_types, tuple(listeners), notes).made())


class _Guards:
    def __init__(
        self,
        merged: Merged,
        egress: Egress,
        filter_types: Mapping[str, type],
        listeners: tuple[str, ...],
        notes: list[Problem],
    ) -> None:
        self._merged, self._filter_types, self._notes = merged, filter_types, notes
        elements = merged.lists.get("consumers", ())
        self._known = {each.name: each for _, each in elements if each is not BROKEN and each.name is not BROKEN}
        self._all_known = not merged.lists.get("consumer_files")
        self._given = self._authentication(egress)
        self._elsewhere = all(self._authenticates(listener) for listener in listeners)

    def made(self) -> Iterator[tuple[str, Guard]]:
        for app, (location, names) in self._merged.app_consumers.items():
            if names is BROKEN or BROKEN in names:
                continue
            shown, ways = self._authenticating_filters(location, names)
            may_call = self._use("authorize", AUTHORIZATION, {"consumers": {"any": [*names]}}, location)
            filters = {**shown, **({} if may_call is None else {AUTHORIZATION: may_call})}
            yield app, Guard(location, filters, ("consumers", *names, "ways", *ways))

    def _authenticating_filters(
        self, location: SourceLocation, names: tuple[str, ...]
    ) -> tuple[Mapping[str, FilterUse], tuple[str, ...]]:
        """Return the filters that authenticate these consumers."""
        is_given = bool(self._given) or self._elsewhere
        for number, name in enumerate(names):
            if name not in self._known and self._all_known:
                at, meant = location.below(number), nearest(name, self._known)
                if not is_given:
                    at.report(f"unknown consumer {format_value(name)}", suggest(name, self._known), at_key=False)
                elif meant is not None:  # a token may name any consumer
                    wrong = f"unknown consumer {format_value(name)}; did you mean {format_value(meant)}?"
                    self._notes.append(at.problem(wrong))
        if is_given:
            return self._given, ()
        held = [self._known[name] for name in names if name in self._known]
        ways = tuple(_TYPES.get(way, way) for way in _WAYS if any(getattr(each, way) for each in held))
        if not ways and not self._all_known:
            ways = ("key_auth",)  # the consumers' files are read later
        if not ways:
            if held:
                expected = "expected one of them, or `egress.authentication`, such as {jwt: …}"
                location.report("these consumers have no key, password or certificate", expected)
            return {}, ()
        said = [{way: self._hiding(way)} for way in ways]
        name, settings = ("auth", {"any_of": said}) if len(ways) > 1 else (ways[0], said[0][ways[0]])
        use = self._use(name, AUTHENTICATION, settings, location)
        return {} if use is None else {AUTHENTICATION: use}, ways

    def _hiding(self, way: str) -> dict[str, Any]:
        try:
            return {"hide_credentials": True} if _hides(type_called(way, self._filter_types)) else {}
        except UnknownType:  # reported when the filter is made
            return {}

    def _authentication(self, egress: Egress) -> dict[str, FilterUse]:
        """Return the valid filters of `egress.authentication`; problems of the others are already reported."""
        held: dict[str, FilterUse] = {}
        for name, use in egress.authentication.items():
            broken: Any = BROKEN
            if use is None or broken in (use, use.settings):
                continue
            if _phase(use.settings) != "AUTHENTICATE":
                at = self._merged.egress["authentication"][0].below(name)
                at.report(
                    f"{format_value(use.type)} does not authenticate applications", "expected a filter such as `jwt`"
                )
            else:
                held[name] = replace(use, settings=_without_credentials(use.settings))
        return held

    def _authenticates(self, listener: str) -> bool:
        """Whether the gateway or the listener authenticates all clients."""
        settings: Any = self._merged.maps["listeners"][listener][1]
        uses = [use for _, use in self._merged.maps["filters"].values()]
        if settings is not BROKEN and settings.filters is not BROKEN:
            uses += settings.filters.values()
        return any(
            use is not None and use is not BROKEN and not use.shadow and _phase(use.settings) == "AUTHENTICATE"
            for use in uses
        )

    def _use(self, type_name: str, name: str, said: Mapping[str, Any], location: SourceLocation) -> FilterUse | None:
        try:
            filter_type = type_called(type_name, self._filter_types)
        except UnknownType as error:
            location.report(error.wrong, error.expected)
            return None
        settings = Structure(filter_type).read(said, location.path, location.reading)
        return None if settings is BROKEN else FilterUse(name=name, type=type_name, settings=settings)


def _phase(settings: Any) -> str:
    return getattr(getattr(settings, "phase", None), "name", "")


def _hides(settings: Any) -> bool:
    return "hide_credentials" in settings.__struct_fields__


def _without_credentials(settings: Any) -> Any:
    """Return the settings with `hide_credentials` on, including the filters inside them."""
    changes: dict[str, Any] = {}
    if _hides(settings):
        changes["hide_credentials"] = True
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, tuple) and any(isinstance(each, FilterUse) for each in value):
            changes[name] = tuple(replace(each, settings=_without_credentials(each.settings)) for each in value)
        elif hasattr(value, "__struct_fields__") and _hides(value):
            changes[name] = replace(value, hide_credentials=True)
    return replace(settings, **changes) if changes else settings
