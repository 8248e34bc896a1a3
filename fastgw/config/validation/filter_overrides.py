"""Checks which filters an inner level may override: neither enforced filters nor those that run before routing.

Filters of the early phases run before the route is known, so only a listener may replace the gateway's. All other
overrides are allowed, and noted, because they may not be intended.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from fastgw.config.base.problems import Problem, format_value, nearest
from fastgw.config.decoding.decoder import BROKEN, Broken
from fastgw.config.decoding.filter_levels import by_route, early, is_default
from fastgw.config.decoding.merge import Merged, SourceLocation
from fastgw.config.settings.gateway import FilterUse, Route

EARLY: Final = ("the gateway", "a listener")
"""Kinds of levels whose filters may run before routing."""


@dataclass(frozen=True)
class Level:
    """The filters of one level, with their positions."""

    name: str
    """Name of the level, such as `the gateway` or `listener "public"`."""
    kind: str
    """Kind with its article: `a listener`."""
    uses: Mapping[str, tuple[SourceLocation, Any]]


@dataclass
class FilterRules:
    """Check of all levels. Forbidden overrides are reported at their position."""

    merged: Merged
    filter_types: Mapping[str, type]

    def check(self) -> list[Problem]:
        """Report forbidden overrides, and return the notes."""
        gateway = Level("the gateway", "the gateway", self.merged.maps["filters"])
        listeners = self._levels("listeners", "listener", "a listener")
        upstreams = self._levels("upstreams", "upstream", "an upstream")
        reached_by = self._reached_by()
        notes = [*self._compare(gateway, ())]
        for level in listeners.values():
            notes += self._compare(level, [gateway])
        for name, level in upstreams.items():
            notes += self._compare(
                level, [gateway, *(listeners[each] for each in listeners if each in reached_by[name])]
            )
        for location, route in self.merged.routes_to_validate():
            outer = [gateway, *(listeners[name] for name in self._listeners_of(route) if name in listeners)]
            found = list(self._compare_route(location, route, outer, upstreams))
            self.merged.note(route, found)
            notes += found
        return [*notes, *self._shadows()]

    def _compare_route(
        self, location: SourceLocation, route: Route, outer: Sequence[Level], upstreams: Mapping[Any, Level]
    ) -> Iterator[Problem]:
        """Compare the filter sets of a route, those of each variant, and the route's own filters with the levels around
        them. A request has one variant: its sets are compared neither with those of the others nor with the upstreams
        of the others.
        """
        farther = [*outer, *(upstreams[name] for name in route.destinations if name in upstreams)]
        sets = list(self._sets(location.below("use"), route.use))
        for level in sets:
            yield from self._compare(level, farther)
            farther.append(level)
        for place, variant in enumerate(route.variants):
            if isinstance(variant, Broken):
                continue
            of_variant = [*outer, *(upstreams[name] for name in (variant.upstream,) if name in upstreams), *sets]
            for level in self._sets(location.below("variants", place, "use"), variant.use):
                yield from self._compare(level, of_variant)
                of_variant.append(level)
                farther.append(level)
        if route.filters:
            level = Level("the route", "a route", _uses(location.below("filters"), route.filters))
            yield from self._compare(level, farther)

    def _shadows(self) -> Iterator[Problem]:
        """Yield a note for each filter in shadow mode."""
        owners = [*self.merged.whole("listeners"), *self.merged.whole("upstreams")]
        held: list[tuple[SourceLocation, Any]] = [(location, owner) for location, _, owner in owners]
        levels: list[Mapping[str, tuple[SourceLocation, Any]]] = [self.merged.maps["filters"]]
        for location, owner in (*held, *self.merged.routes()):
            if any(isinstance(use, FilterUse) and use.shadow for use in owner.filters.values()):
                levels.append(_uses(location.below("filters"), owner.filters))
        levels += [_uses(location, filters) for location, _, filters in self.merged.whole("filter_sets")]
        for location, use in (each for level in levels for each in level.values()):
            if isinstance(use, FilterUse) and use.shadow:
                unknown = getattr(use.settings, "unknown_in_shadow", "")
                about = f"; what it would do to {unknown} is `unknown`" if unknown else ""
                yield location.problem(f"shadow mode: it logs what it would do, and never acts{about}")

    def _levels(self, part: str, noun: str, kind: str) -> dict[str, Level]:
        """Return the listeners or upstreams that have filters."""
        return {
            name: Level(f"{noun} {format_value(name)}", kind, _uses(location.below("filters"), owner.filters))
            for location, name, owner in self.merged.whole(part)
            if owner.filters
        }

    def _sets(self, location: SourceLocation, names: Sequence[str]) -> Iterator[Level]:
        """Yield the filter sets that a route or one of its variants uses, if they exist."""
        for index, name in enumerate(names):
            _, filters = self.merged.maps["filter_sets"].get(name, (None, BROKEN))
            if not isinstance(filters, Broken):
                at = location.below(index)
                yield Level(
                    f"filter set {format_value(name)}", "a route", {key: (at, use) for key, use in filters.items()}
                )

    def _listeners_of(self, route: Route) -> Sequence[str]:
        return route.listeners or tuple(self.merged.maps["listeners"])

    def _reached_by(self) -> Mapping[Any, set[str]]:
        """Return the listeners that have a route to each upstream, by upstream name."""
        reached: defaultdict[Any, set[str]] = defaultdict(set)
        for _, route in self.merged.routes():
            for name in route.destinations:
                reached[name].update(self._listeners_of(route))
        return reached

    def _compare(self, level: Level, farther: Sequence[Level]) -> Iterator[Problem]:
        """Compare one level with the outer ones, which are in order from the outermost."""
        for name, (location, use) in level.uses.items():
            replaced = [
                (each, *each.uses[name])
                for each in reversed(farther)
                if name in each.uses and isinstance(each.uses[name][1], FilterUse)
            ]
            if not replaced and use is not None:
                continue
            subject = f"{level.name} has {format_value(name)}, " if location.source.path[-1] != name else ""
            deed = "switch it off" if use is None else "replace it"
            for owner, at, old in replaced:
                if old.enforced:
                    location.report(f"{subject}enforced by {owner.name} ({at})", f"{level.kind} cannot {deed}")
                    break
                runs_early = early(old.settings, owner.kind in EARLY)
                if level.kind != "a listener" and runs_early and not by_route(old.settings):
                    location.report(
                        f"{subject}runs before routing, by {owner.name} ({at})", f"{level.kind} cannot {deed}"
                    )
                    break
            else:
                if replaced:
                    owner, at, _ = replaced[0]
                    yield location.problem(
                        f"{subject}{'removes' if use is None else 'replaces'} that of {owner.name} ({at})"
                    )
                elif use is None and not self._removes_default(level, name) and name not in self._of_routes(level):
                    advice = self._instead_of_removing(name, farther)
                    yield location.problem(f"{subject}no outer level has a filter with this name{advice}")

    def _of_routes(self, level: Level) -> frozenset[str]:
        """Return the names of filters that routes have: `null` on another route says that it is meant to have none."""
        return self._used_by_routes if level.kind == "a route" else frozenset()

    @cached_property
    def _used_by_routes(self) -> frozenset[str]:
        return frozenset(
            name for _, route in self.merged.routes() for name, use in route.filters.items() if use is not None
        )

    def _instead_of_removing(self, name: str, farther: Sequence[Level]) -> str:
        """Return advice for the removal of a filter that no outer level has."""
        near = nearest(name, {each for level in farther for each, (_, use) in level.uses.items() if use is not None})
        if near is not None:
            return f"; did you mean {format_value(near)}?"
        return f"; to switch the filter on with its defaults: `{name}: {{}}`" if name in self.filter_types else ""

    def _removes_default(self, level: Level, name: str) -> bool:
        """Whether the gateway has a default filter with this name."""
        written = name in self.merged.maps["filters"] and level.kind != "the gateway"
        return not written and is_default(self.filter_types.get(name))


def _uses(location: SourceLocation, filters: Mapping[str, Any]) -> Mapping[str, tuple[SourceLocation, Any]]:
    return {name: (location.below(name), use) for name, use in filters.items()}
