"""Executable documents of GraphQL (the specification of September 2025, section 2), measured without a schema.

Rule 1: a document is read once; its tokens and its nesting are bounded while it is read. Rule 2: fragments are measured
once, in the order in which they use each other, and never expanded: a bomb of fragments costs what its text costs.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from math import ceil, isnan, nan
from typing import Any, Final, NamedTuple, final

MOST_NESTED: Final = 64
"""Maximum nesting of selection sets, values and types together."""
CEILING: Final = 1 << 40
"""Bound of a cost and of a number in an argument: above it, it is not counted on."""
_TOKEN: Final = re.compile(
    r"(?P<ignored>[ \t\r\n,\ufeff]+)"
    r"|(?P<comment>#[^\r\n]*)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<mark>\.\.\.|[!$&():=@\[\]{|}])"
    r'|(?P<block>"""(?:[^"\\]|\\"""|\\(?!""")|"{1,2}(?!"))*""")'
    r'|(?P<string>"(?:[^"\\\r\n\x00-\x08\x0b\x0c\x0e-\x1f]|\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,6}\}))*"(?!"))'
    r"|(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_.]))"
)
_OPERATIONS: Final = frozenset(("query", "mutation", "subscription"))
_AFTER_NAME: Final = frozenset(":(@{")
"""Marks that may follow the name of a field and belong to it."""


class InvalidDocument(Exception):
    """A text is no executable document, or exceeds a bound while it is read. The message has nothing of the text."""


class Measures(NamedTuple):
    """Measures of a selection set, with its fragments."""

    depth: int = 0
    """Levels of fields below each other."""
    cost: int = 0
    """Cost of its fields, those of lists multiplied."""
    aliases: int = 0
    directives: int = 0
    introspects: bool = False
    """Whether it asks for `__schema` or `__type`."""


class GraphqlOperation(NamedTuple):
    kind: str
    name: str
    measures: Measures
    root_fields: int
    """Fields at its root, those of fragments there included."""


class CostRules(NamedTuple):
    """Rules for costs. `fields`: cost of fields by name, others cost 1. `list_arguments`: names of arguments with the
    size of a list, by which the cost of what is below a field is multiplied. `list_size`: that number if it is no
    number in the request.
    """

    fields: Mapping[str, int]
    list_arguments: frozenset[str]
    list_size: int


class _Field(NamedTuple):
    name: str
    is_alias: bool
    directives: int
    factor: int
    below: "tuple[_Selection, ...]"


class _Inline(NamedTuple):
    directives: int
    below: "tuple[_Selection, ...]"


class _Spread(NamedTuple):
    name: str
    directives: int


_Selection = _Field | _Inline | _Spread


@final
class TokenBudget:
    """Tokens that the documents of a request may have together. PERF: 2,000 tokens take up to 3 ms (CPython 3.11)."""

    __slots__ = ("left", "most")

    def __init__(self, most: int) -> None:
        self.left = self.most = most

    def __repr__(self) -> str:
        return f"<TokenBudget {self.left} of {self.most} left>"


def read_operations(text: str, budget: TokenBudget, rules: CostRules, variables: Any) -> list[GraphqlOperation]:
    """Return the operations of a document with their measures. Raises `InvalidDocument`."""
    reader = _Reader(_tokens(text, budget), rules, variables if isinstance(variables, Mapping) else {})
    operations, fragments = reader.read_definitions()
    measured: dict[str, tuple[Measures, int]] = {}
    for name in _in_order(fragments):
        measured[name] = _measure(fragments[name], measured, rules.fields)
    made = []
    for kind, name, selections, directives in operations:
        measures, root_fields = _measure(selections, measured, rules.fields)
        measures = measures._replace(directives=measures.directives + directives)
        made.append(GraphqlOperation(kind, name, measures, root_fields))
    return made


class _Tokens(NamedTuple):
    """Kind and text of each token, and both empty behind the last one."""

    kinds: list[str]
    texts: list[str]


def _tokens(text: str, budget: TokenBudget) -> _Tokens:
    """Return the tokens. Comments are not among them, but count: a body may have 60,000."""
    kinds: list[str] = []
    texts: list[str] = []
    at, left, match = 0, budget.left, _TOKEN.match
    while at < len(text):
        found = match(text, at)
        if found is None:
            raise InvalidDocument("not a GraphQL document")
        at = found.end()
        kind = found.lastgroup or ""
        if kind == "ignored":
            continue
        left -= 1
        if left < 0:
            raise InvalidDocument(f"the documents have more than {budget.most} tokens and comments")
        if kind != "comment":
            kinds.append(kind)
            texts.append(found[0])
    budget.left = left
    return _Tokens([*kinds, ""], [*texts, ""])


@final
class _Reader:
    """Recursive descent, whose depth is bounded."""

    def __init__(self, tokens: _Tokens, rules: CostRules, variables: Mapping[Any, Any]) -> None:
        self._kinds, self._texts = tokens
        self._at = self._level = 0
        self._rules, self._variables = rules, variables
        self._defaults = _defaults(tokens.texts)

    def read_definitions(
        self,
    ) -> tuple[list[tuple[str, str, tuple[_Selection, ...], int]], dict[str, tuple[_Selection, ...]]]:
        operations: list[tuple[str, str, tuple[_Selection, ...], int]] = []
        fragments: dict[str, tuple[_Selection, ...]] = {}
        names: set[str] = set()
        while self._kinds[self._at]:
            is_described = self._description()
            if self._is("{") and not is_described:
                operations.append(("query", "", self._selections(), 0))
                continue
            kind = self._name()
            if kind == "fragment":
                name = self._name()
                if name == "on" or name in fragments or self._name() != "on":
                    raise InvalidDocument("not a GraphQL document, or a fragment is defined twice")
                self._name()
                directives = self._directives()
                fragments[name] = (_Inline(directives, self._selections()),)
                continue
            if kind not in _OPERATIONS:
                raise InvalidDocument("not an executable GraphQL document")
            name = self._name() if self._kinds[self._at] == "name" else ""
            if name and name in names:
                raise InvalidDocument("an operation is defined twice")
            names.add(name)
            if self._is("("):
                self._variable_definitions()
            directives = self._directives()
            operations.append((kind, name, self._selections(), directives))
        if not operations:
            raise InvalidDocument("the document has no operation")
        if len(operations) > 1 and any(not name for _, name, _, _ in operations):
            raise InvalidDocument("an operation without a name stands beside others")
        return operations, fragments

    # tokens

    def _is(self, mark: str) -> bool:
        return self._texts[self._at] == mark  # no other token has the text of a mark

    def _next(self) -> tuple[str, str]:
        kind, text = self._kinds[self._at], self._texts[self._at]
        if not kind:
            raise InvalidDocument("the GraphQL document is incomplete")
        self._at += 1
        return kind, text

    def _name(self) -> str:
        kind, text = self._next()
        if kind != "name":
            raise InvalidDocument("not a GraphQL document")
        return text

    def _mark(self, mark: str) -> None:
        if self._next()[1] != mark:
            raise InvalidDocument("not a GraphQL document")

    def _enter(self) -> None:
        self._level += 1
        if self._level > MOST_NESTED:
            raise InvalidDocument(f"the document is nested deeper than {MOST_NESTED} levels")

    # the grammar

    def _description(self) -> bool:
        """Read a description, if there is one: a string before a definition that has a keyword, or a variable."""
        if self._kinds[self._at] not in ("string", "block"):
            return False
        self._at += 1
        return True

    def _selections(self) -> tuple[_Selection, ...]:
        self._mark("{")
        self._enter()
        made: list[_Selection] = []
        while not self._is("}"):
            made.append(self._selection())
        if not made:
            raise InvalidDocument("a selection set is empty")
        self._mark("}")
        self._level -= 1
        return tuple(made)

    def _selection(self) -> _Selection:
        if self._is("..."):
            self._next()
            if self._kinds[self._at] == "name" and not self._is("on"):
                name = self._name()
                return _Spread(name, self._directives())
            if self._kinds[self._at] == "name":
                self._next()
                self._name()
            directives = self._directives()
            return _Inline(directives, self._selections())
        name, is_alias = self._name(), False
        if self._texts[self._at] not in _AFTER_NAME:
            return _Field(name, False, 0, 1, ())
        if self._is(":"):
            self._next()
            name, is_alias = self._name(), True
        factor = self._arguments(self._rules.list_arguments) if self._is("(") else 1
        directives = self._directives()
        return _Field(name, is_alias, directives, factor, self._selections() if self._is("{") else ())

    def _arguments(self, lists: frozenset[str] = frozenset()) -> int:
        """Read arguments. Returns by what they multiply the cost."""
        self._mark("(")
        factor, is_first = 1, True
        while is_first or not self._is(")"):
            is_first = False
            name = self._name()
            self._mark(":")
            size = self._value()
            if name in lists:
                factor = max(factor, self._rules.list_size if size is None else size)
        self._mark(")")
        return factor

    def _directives(self) -> int:
        count = 0
        while self._is("@"):
            self._next()
            self._name()
            count += 1
            if self._is("("):
                self._arguments()
        return count

    def _value(self) -> int | None:
        """Read a value. Returns a number as the size of a list, also that of a variable; None: it is something else."""
        kind, text = self._next()
        if kind in ("number", "string"):
            return _size_of(text.strip('"'))
        if kind in ("block", "name"):
            return None
        if text == "$":
            name = self._name()
            return _size_of(self._variables[name]) if name in self._variables else self._defaults.get(name)
        self._enter()
        if text == "[":
            while not self._is("]"):
                self._value()
        elif text == "{":
            while not self._is("}"):
                self._name()
                self._mark(":")
                self._value()
        else:
            raise InvalidDocument("not a GraphQL document")
        self._next()
        self._level -= 1
        return None

    def _variable_definitions(self) -> None:
        self._mark("(")
        is_first = True
        while is_first or not self._is(")"):
            is_first = False
            self._description()
            self._mark("$")
            self._name()
            self._mark(":")
            self._type()
            if self._is("="):
                self._next()
                self._value()
            self._directives()
        self._mark(")")

    def _type(self) -> None:
        if self._is("["):
            self._next()
            self._enter()
            self._type()
            self._mark("]")
            self._level -= 1
        else:
            self._name()
        if self._is("!"):
            self._next()


def _defaults(texts: list[str]) -> dict[str, int]:
    """Return the numbers that variables have by default; of several operations the largest. Fragments may stand before
    the operations that define their variables, so definitions are looked for alone: `$name:`, a type, `=`.
    """
    found: dict[str, int] = {}
    name = ""
    for text, following in pairwise(texts):
        if text == "$":
            name = following
        elif text == "=":
            size = _size_of(following.strip('"'))
            if size is not None:
                found[name] = max(found.get(name, 0), size)
    return found


def _size_of(value: Any) -> int | None:
    """Return a number as the size of a list, at most `CEILING`. Servers take 1e6 for an integer, some take strings, and
    some cut off fractions: those are rounded up.
    """
    try:
        size = abs(float(value)) if type(value) in (int, float, str) else nan
    except ValueError:
        return None
    return None if isnan(size) else ceil(min(size, CEILING))


def _spreads(selections: tuple[_Selection, ...]) -> set[str]:
    """Return the fragments that selections use directly."""
    found: set[str] = set()
    left = list(selections)
    while left:
        each = left.pop()
        if isinstance(each, _Spread):
            found.add(each.name)
        else:
            left += each.below
    return found


def _in_order(fragments: Mapping[str, tuple[_Selection, ...]]) -> list[str]:
    """Return the fragments, each after those that it uses. Raises `InvalidDocument` for a circle."""
    users: dict[str, list[str]] = {name: [] for name in fragments}
    missing: dict[str, int] = {}
    for name, selections in fragments.items():
        uses = _spreads(selections)
        if not uses <= fragments.keys():
            raise InvalidDocument("a fragment is not defined")
        missing[name] = len(uses)
        for used in uses:
            users[used].append(name)
    ready = [name for name, count in missing.items() if not count]
    for name in ready:
        for user in users[name]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)
    if len(ready) < len(fragments):
        raise InvalidDocument("fragments use each other in a circle")
    return ready


def _measure(
    selections: tuple[_Selection, ...], fragments: Mapping[str, tuple[Measures, int]], costs: Mapping[str, int]
) -> tuple[Measures, int]:
    """Return the measures of selections, and the number of fields at their root. As deep as the text is nested."""
    depth = cost = aliases = directives = root_fields = 0
    introspects = False
    for each in selections:
        directives += each.directives
        if isinstance(each, _Field):
            root_fields += 1
            aliases += each.is_alias
            introspects = introspects or each.name in ("__schema", "__type")
            levels, price = 1, costs.get(each.name, 1)
            if not each.below:
                depth, cost = depth or levels, cost + price
                continue
            below, _ = _measure(each.below, fragments, costs)
            levels, price = levels + below.depth, price + each.factor * below.cost
        else:
            if isinstance(each, _Inline):
                below, fields = _measure(each.below, fragments, costs)
            elif each.name in fragments:
                below, fields = fragments[each.name]
            else:
                raise InvalidDocument("a fragment is not defined")
            root_fields += fields
            levels, price = below.depth, below.cost
        depth, cost = max(depth, levels), cost + price
        aliases, directives = aliases + below.aliases, directives + below.directives
        introspects = introspects or below.introspects
    cost, aliases, directives = min(cost, CEILING), min(aliases, CEILING), min(directives, CEILING)
    return Measures(depth, cost, aliases, directives, introspects), min(root_fields, CEILING)
