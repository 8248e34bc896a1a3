"""Compiled rules: one automaton of RE2 for each part of a request, which finds all rules that match in one pass."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, final

import re2

from fastgw.config.base.route_patterns import re2_options, re2_problem
from fastgw.filters.policies.waf.literal_search import LiteralSearch
from fastgw.filters.policies.waf.normalization import SEPARATOR
from fastgw.filters.policies.waf.required_literals import required_literals
from fastgw.filters.policies.waf.rules.rule import RequestPart, Rule

_MEMORY: Final = 8 * 1024**2
"""Initial memory limit of an automaton; most of it is used only by hostile text."""
_TOKEN: Final = re.compile(rb"\\Q.*?(?:\\E|\Z)|\\.|\[:\^?[a-z]+:\]|\[\^?\]?|.", re.DOTALL).finditer
_SPACES: Final = (b" ", b"\\ ")
_CLASS_BEGINS: Final = (b"[", b"[^", b"[]", b"[^]")
_ANCHORS: Final = {
    b"^": b"(?:^|\\x00)",
    b"$": b"(?:$|\\x00)",
    b"\\A": b"(?:\\A|\\x00)",
    b"\\z": b"(?:\\z|\\x00)",
}
_SHORT: Final = 512
"""Maximum length of text that is searched by automata for `_MANY` rules each, in bytes."""
_MANY: Final = 20
_FEW: Final = 5
"""Rules of one automaton for longer text."""
_MOST_LITERALS: Final = 10_000
"""Maximum number of literals for which plain text is searched first."""


class BadPattern(ValueError):
    """A pattern is not RE2. `rule`: its id."""

    def __init__(self, rule: int, problem: str) -> None:
        super().__init__(f"rule {rule}: {problem}; expected a regular expression in RE2 syntax")
        self.rule = rule


@final
class RuleSet:
    """Rules of one target. Raises `BadPattern`.

    Hostile text makes the states of automata multiply, the more the more rules they are for: 256 random characters that
    are new take 3.1 ms in one for 73 rules, 0.85 ms in automata for 20 rules each and 0.34 ms in those for 5. Text that
    is seen often takes 2, 9 and 39 us (CPython 3.11, a slow machine). Plain text mostly has none of the literals that
    the rules require, and is searched for these alone.
    """

    __slots__ = ("_for_long", "_for_short", "_may_match")

    def __init__(self, rules: Iterable[Rule]) -> None:
        rules = tuple(rules)
        options = _options()
        for rule in rules:
            try:
                re2.compile(_expression(rule), options)
            except re2.error as error:
                raise BadPattern(rule.id, re2_problem(error)) from error
        self._for_short, self._for_long = _divided(rules, _MANY), _divided(rules, _FEW)
        self._may_match = _literals_of(rules)

    def matches(self, text: bytes, *, is_plain: bool = False) -> Sequence[Rule]:
        """Return the rules that match. `is_plain`: the text has no characters but those of `PLAIN` and `SEPARATOR`.
        Raises `MemoryError` if an automaton had not enough memory for this text.
        """
        if is_plain and self._may_match is not None and not self._may_match(text):
            return ()
        automata = self._for_short if len(text) <= _SHORT else self._for_long
        return [rule for each in automata for rule in each.matches(text)]

    def locate(self, texts: Sequence[bytes], rules: Collection[Rule], *, once: bool) -> list[tuple[int, Rule]]:
        """Return the matches of these rules in the texts, as index of the text and rule, in this order. `once`: only
        the first match of each rule. Raises `MemoryError` as `matches`.

        Texts are searched by halves, by automata for a few rules each: 200 random ones, one after the other by an
        automaton for all rules, take 0.4 s.
        """
        wanted = {rule.id for rule in rules}
        found: list[tuple[int, int, Rule]] = []
        is_short = sum(map(len, texts)) <= _SHORT
        groups, most = (self._for_short, _MANY) if is_short else (self._for_long, _FEW)
        for number, group in enumerate(groups):
            missing = {rule.id for rule in group.rules} & wanted
            halves = _halves(0, len(texts)) if missing and texts else []
            while halves:
                first, end = halves.pop()
                matching = [rule for rule in group.matches(SEPARATOR.join(texts[first:end])) if rule.id in missing]
                if matching and end - first > 1:
                    halves += _halves(first, end)
                    continue
                for rule in matching:
                    found.append((first, number * most + group.rules.index(rule), rule))
                    if once:
                        missing.discard(rule.id)
        return [(index, rule) for index, _, rule in sorted(found, key=itemgetter(0, 1))]


@final
class _Automaton:
    """One automaton of RE2 for some rules."""

    __slots__ = ("_set", "rules")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules
        options = _options()
        options.max_mem = _MEMORY
        # RE2 does not report an automaton without enough memory, which matches nothing: the last pattern matches
        # every text.
        while True:
            self._set: Any = re2.Set.SearchSet(options)
            for rule in rules:
                self._set.Add(_expression(rule))
            self._set.Add(b"")
            try:
                self._set.Compile()
            except re2.error:
                pass
            else:
                if self._set.Match(b"/"):
                    return
            options.max_mem *= 2

    def matches(self, text: bytes) -> Sequence[Rule]:
        found = self._set.Match(text)  # None: no pattern matches
        if not found:
            raise MemoryError("an automaton of rules has exceeded its memory")
        if len(found) == 1:
            return ()
        last = len(self.rules)
        return [self.rules[index] for index in sorted(found) if index != last]


def _literals_of(rules: Iterable[Rule]) -> Callable[[bytes], bool] | None:
    """Return the search for literals of which plain text has one if a rule matches. None: rules do not require any."""
    literals: set[bytes] = set()
    for rule in rules:
        required = required_literals(rule.pattern)
        if required is None:
            return None
        literals |= required
        if len(literals) > _MOST_LITERALS:
            return None
    return LiteralSearch(literals)


def _halves(first: int, end: int) -> list[tuple[int, int]]:
    """Return both halves of a range, or a range of one, with the earlier one last."""
    middle = (first + end) // 2
    return [(middle, end), (first, middle)] if end - first > 1 else [(first, end)]


def _divided(rules: Sequence[Rule], most: int) -> list[_Automaton]:
    return [_Automaton(rules[first : first + most]) for first in range(0, len(rules), most)]


def _options() -> Any:
    options = re2_options()
    options.dot_nl = True
    return options


def _expression(rule: Rule) -> bytes:
    """Return the pattern with anchors that also match at `SEPARATOR` and at line ends, and with spaces that also match
    a line break: most languages take any white space for another. In a shell, a line break ends the command. `\\x20` is
    a space alone.
    """
    pieces, opened = [b"(?m)"], 0  # `opened`: index of the piece that opens a class; 0: outside of classes
    is_over_lines = rule.attack != "rce"
    for found in _TOKEN(rule.pattern):
        token = found[0]
        if token in _SPACES and is_over_lines:
            if opened:
                pieces[opened] = pieces[opened].removesuffix(b"\\n") + b"\\n"  # the space itself may be in a range
            else:
                token = b"[ \\n]"
        elif opened:
            opened = 0 if token == b"]" else opened
        elif token in _CLASS_BEGINS:
            opened = len(pieces)
        else:
            token = _ANCHORS.get(token, token)
        pieces.append(token)
    return b"".join(pieces)


def rule_set(rules: Iterable[Rule], targets: Collection[RequestPart]) -> RuleSet:
    """Return a set for several targets together."""
    return _set_of(tuple(rule for rule in rules if rule.pattern and not rule.targets.isdisjoint(targets)))


def rule_sets(rules: Iterable[Rule]) -> dict[RequestPart, RuleSet]:
    """Return a set for each target. Raises `BadPattern`."""
    rules = [rule for rule in rules if rule.pattern]
    return {target: _set_of(tuple(rule for rule in rules if target in rule.targets)) for target in RequestPart}


@lru_cache(maxsize=32)
def _set_of(rules: tuple[Rule, ...]) -> RuleSet:
    """Return the set of these rules. Cached, because filters with other exclusions have the same rules."""
    return RuleSet(rules)
