"""Paths of a login at the gateway, and whether a route with the filter matches them: for `check`."""

from collections.abc import Iterable, Iterator

import re2

from fastgw.config.base.route_patterns import MixedSegment, Parameter, PathKind, PathPattern, parse_path, re2_options
from fastgw.config.settings.gateway import Route
from fastgw.filters.policies.oidc.settings import Login

_BY_DEFAULT = "/oauth2/logout"


def own_paths(login: Login) -> Iterator[tuple[str, str]]:
    """Yield the settings with paths that the filter answers by itself, and the paths. The default `logout` is left out:
    many have no link to it.
    """
    yield "callback", login.callback
    for key, path in (
        ("login", login.login),
        ("logout", login.logout),
        ("backchannel_logout", login.backchannel_logout),
    ):
        if path is not None and (key, path) != ("logout", _BY_DEFAULT):
            yield key, path


def reached_paths(logins: Iterable[tuple[Login, Route]]) -> frozenset[str]:
    """Return the paths of logins that a route with the filter may match, whatever its other conditions."""
    reached: set[str] = set()
    for login, route in logins:
        missing = [path for _, path in own_paths(login) if path not in reached]
        if missing:
            patterns = [*map(parse_path, route.paths)]
            reached.update(path for path in missing if not patterns or any(_may_match(each, path) for each in patterns))
    return frozenset(reached)


def _may_match(pattern: PathPattern, path: str) -> bool:
    """Whether a path matches, with a trailing slash or without it."""
    if pattern.kind is PathKind.REGEX:
        return re2.compile(pattern.regex, re2_options()).search(path.encode()) is not None
    parts, segments = path.rstrip("/").encode().split(b"/")[1:], [*pattern.segments]
    if segments and segments[-1] == b"":
        segments.pop()
    for index, segment in enumerate(segments):
        if isinstance(segment, Parameter) and segment.rest:
            return True
        if index >= len(parts):
            return False
        if isinstance(segment, MixedSegment):
            if not segment.matches(parts[index]):
                return False
        elif isinstance(segment, bytes) and segment != parts[index]:
            return False
    return pattern.kind is PathKind.PREFIX or len(parts) == len(segments)
