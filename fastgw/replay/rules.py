"""Rules for what may differ between two configurations: a list in YAML or JSON.

`[{route: r2, header: X-Version}, {route: r5, upstream: path}]`: each names one kind of difference and its name, in
which `*` stands for any text. A rule without `route` is for all routes.
"""

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from fastgw.config.formats import yaml
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.wildcards import wildcard_expression

KEYS: Final = {
    "status": "status",
    "header": "header",
    "body": "body",
    "upstream": "upstream",
    "filters": "filters",
    "latency": "latency",
    "to": "route",
}
"""Keys of a rule, with the kind of difference; `to`: the route that takes the requests now."""
LARGEST: Final = 1024 * 1024


class InvalidRules(Exception):
    """The rules cannot be used. The text is one line for the user."""


class DifferenceRule(NamedTuple):
    """A difference that is allowed."""

    route: re.Pattern[str] | None
    """None: on all routes."""
    where: str
    name: re.Pattern[str]

    def allows(self, route: str, where: str, name: str) -> bool:
        if where != self.where or (self.route is not None and not self.route.fullmatch(route)):
            return False
        return self.name.fullmatch(name) is not None


def read_rules(path: str) -> Sequence[DifferenceRule]:
    """Read a file of rules. Raises `InvalidRules`."""
    try:
        with open(path, encoding="utf-8") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise InvalidRules(f"{path}: it is larger than {LARGEST} bytes")
        listed, _ = yaml.read(content)
    except OSError as error:
        raise InvalidRules(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRules(f"{path}: it is not UTF-8") from error
    except SyntaxProblem as flaw:
        raise InvalidRules(f"{path}: {flaw.wrong}") from flaw
    if listed is None:
        return ()
    if not isinstance(listed, list):
        raise InvalidRules(f"{path}: expected a list of rules, such as [{{route: users, header: X-Version}}]")
    return [_rule(f"{path}: rule {number}", each) for number, each in enumerate(listed, 1)]


def _rule(where: str, given: Any) -> DifferenceRule:
    if not isinstance(given, dict):
        raise InvalidRules(f"{where}: expected an object, such as {{route: users, header: X-Version}}")
    kinds = [key for key in given if key != "route"]
    unknown = [key for key in kinds if key not in KEYS]
    if unknown:
        raise InvalidRules(f'{where}: unknown key "{unknown[0]}"; expected route and one of {", ".join(KEYS)}')
    if len(kinds) != 1:
        raise InvalidRules(f"{where}: expected exactly one of {', '.join(KEYS)}, besides route")
    kind, route = kinds[0], given.get("route")
    value = given[kind]
    if not isinstance(value, str | int):
        raise InvalidRules(f"{where}: {kind} is {value!r}; expected text")
    if route is not None and not isinstance(route, str):
        raise InvalidRules(f"{where}: route is {route!r}; expected text")
    return DifferenceRule(
        None if route is None else _pattern(route), KEYS[kind], _pattern(str(value), kind == "header")
    )


def _pattern(text: str, ignores_case: bool = False) -> re.Pattern[str]:
    return re.compile(wildcard_expression(text), re.DOTALL | (re.IGNORECASE if ignores_case else 0))
