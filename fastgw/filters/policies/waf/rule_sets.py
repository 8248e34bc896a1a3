"""Compiled rules: one automaton of RE2 for each part of a request, which finds all rules that match in one pass."""

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, final

import re2

from fastgw.config.base.route_patterns import re2_options, re2_problem
from fastgw.filters.policies.waf.normalization import SEPARATOR
from fastgw.filters.policies.waf.rules.rule import RequestPart, Rule

_MEMORY: Final = 8 * 1024**2
"""Initial memory limit of an automaton; most of it is used only by hostile text."""
_TOKEN: Final = re.compile(rb"\\.|\[\^?\]?|.", re.DOTALL).finditer
_ANCHORS: Final = {b"^": b"(?:^|\\x00)", b"$": b"(?:$|\\x00)"}
_SHORT: Final = 256
"""Maximum length of text that is searched by one automaton for all rules, in bytes."""
_GROUP: Final = 4
"""Rules of one automaton for long text."""


class BadPattern(ValueError):
    """A pattern is not RE2. `rule`: its id."""

    def __init__(self, rule: int, problem: str) -> None:
        super().__init__(f"rule {rule}: {problem}; expected a regular expression in RE2 syntax")
        self.rule = rule


@final
class RuleSet:
    """Rules of one target. Raises `BadPattern`.

    Short text is searched by one automaton for all rules. Hostile text makes its states multiply, so long text is
    searched by automata for a few rules each: 16 KiB of random text take 9 ms, 60 with a single one.
    """

    __slots__ = ("_groups", "_whole")

    def __init__(self, rules: Iterable[Rule]) -> None:
        rules = tuple(rules)
        options = _options()
        for rule in rules:
            try:
                re2.compile(_multiline(rule), options)
            except re2.error as error:
                raise BadPattern(rule.id, re2_problem(error)) from error
        self._whole = _Automaton(rules)
        self._groups = [_Automaton(rules[first : first + _GROUP]) for first in range(0, len(rules), _GROUP)]

    def matches(self, text: bytes) -> Sequence[Rule]:
        """Return the rules that match. Raises `MemoryError` if an automaton had not enough memory for this text."""
        if len(text) <= _SHORT:
            return self._whole.matches(text)
        return [rule for group in self._groups for rule in group.matches(text)]

    def locate(self, texts: Sequence[bytes], rules: Collection[Rule], *, once: bool) -> list[tuple[int, Rule]]:
        """Return the matches of these rules in the texts, as index of the text and rule, in this order. `once`: only
        the first match of each rule. Raises `MemoryError` as `matches`.

        Long texts are searched by halves, by automata for a few rules each: 200 random ones, one after the other by the
        automaton for all rules, take 0.4 s.
        """
        if sum(map(len, texts)) <= _SHORT:
            by_text = [(index, rule) for index, text in enumerate(texts) for rule in self._whole.matches(text)]
            first_of = {rule.id: index for index, rule in reversed(by_text)}
            return [(index, rule) for index, rule in by_text if not once or first_of[rule.id] == index]
        wanted = {rule.id for rule in rules}
        found: list[tuple[int, int, Rule]] = []
        for number, group in enumerate(self._groups):
            missing = {rule.id for rule in group.rules} & wanted
            halves = [(0, len(texts))] if missing else []
            while halves:
                first, end = halves.pop()
                matching = [rule for rule in group.matches(SEPARATOR.join(texts[first:end])) if rule.id in missing]
                if matching and end - first > 1:
                    middle = (first + end) // 2
                    halves += ((middle, end), (first, middle))
                    continue
                for rule in matching:
                    found.append((first, number * _GROUP + group.rules.index(rule), rule))
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
                self._set.Add(_multiline(rule))
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
        found = self._set.Match(text)
        if len(found) == 1:
            return ()
        if not found:
            raise MemoryError("an automaton of rules has exceeded its memory")
        last = len(self.rules)
        return [self.rules[index] for index in sorted(found) if index != last]


def _options() -> Any:
    options = re2_options()
    options.dot_nl = True
    return options


def _multiline(rule: Rule) -> bytes:
    """Return the pattern with anchors that also match at `SEPARATOR`, and at line ends."""
    pieces, in_class = [b"(?m)"], False
    for found in _TOKEN(rule.pattern):
        token = found[0]
        if token[:1] == b"[" and not in_class:
            in_class = True
        elif token == b"]":
            in_class = False
        elif token in _ANCHORS and not in_class:
            token = _ANCHORS[token]
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
