"""Inspection of requests by the rules: which rules match which values, less the exclusions, and the anomaly score."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, final

from fastgw.exchange.exchange import Exchange
from fastgw.filters.policies.waf.body_values import CHARSETS, charset_of, form_values, values_of
from fastgw.filters.policies.waf.normalization import IS_OVERLONG, SEPARATOR, decoded, normalized
from fastgw.filters.policies.waf.rule_sets import rule_sets
from fastgw.filters.policies.waf.rules import protocol
from fastgw.filters.policies.waf.rules.rule import RequestPart, Rule

_PLAIN_QUERY: Final = re.compile(rb"[A-Za-z0-9_.,:@~/=&-]*").fullmatch
_ESCAPE: Final = re.compile(rb"%[0-9a-fA-F]{2}").search
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9a-fA-F]{2}|u[0-9a-fA-F]{4})").search
_NAMES_FILE: Final = re.compile(rb"(?i)x[-_.]?file[-_.]?name").fullmatch
"""Matches the headers that name an upload, as a part of a multipart body does."""
_SKIPPED: Final = frozenset(
    (
        *(b"accept", b"accept-charset", b"accept-encoding", b"accept-language", b"authorization", b"cache-control"),
        *(b"connection", b"content-length", b"content-md5", b"cookie", b"date", b"host", b"if-match", b"if-none-match"),
        *(b"if-modified-since", b"if-unmodified-since", b"keep-alive", b"pragma", b"proxy-authorization", b"signature"),
        *(b"signature-input", b"te", b"upgrade-insecure-requests", b"traceparent", b"tracestate", b"priority"),
        *(b"sec-ch-ua", b"sec-ch-ua-mobile", b"sec-ch-ua-platform", b"sec-fetch-dest", b"sec-fetch-mode"),
        *(b"sec-fetch-site", b"sec-fetch-user", b"dpop"),
    )
)
"""Headers that are not searched: opaque credentials, and values with a grammar of their own."""
_REMEMBERED: Final = 4096
"""Maximum number of header and cookie texts without matches that are remembered, each up to `_REMEMBERED_BYTES`."""
_REMEMBERED_BYTES: Final = 1024
_DECLARED_BINARY: Final = (b"identity", b"")


class Exclusion(NamedTuple):
    """Matches that do not count. Empty `paths`: of all requests; empty `arguments`: in all values."""

    rules: frozenset[int]
    tags: frozenset[str]
    paths: Sequence["re.Pattern[bytes]"]
    arguments: frozenset[bytes]

    @property
    def is_total(self) -> bool:
        return not self.paths and not self.arguments

    def covers(self, rule: Rule) -> bool:
        return rule.id in self.rules or not self.tags.isdisjoint(rule.all_tags)


class Match(NamedTuple):
    """A rule that matches. `target`: where; `name`: of the argument, cookie or header."""

    rule: Rule
    target: str
    name: bytes


@final
class Inspector:
    """Rules in use, with their exclusions. Raises `rule_sets.BadPattern`."""

    __slots__ = ("_clean", "_exclusions", "_sets", "most_arguments", "rules")

    def __init__(self, rules: Iterable[Rule], exclusions: Sequence[Exclusion], most_arguments: int) -> None:
        total = [each for each in exclusions if each.is_total]
        self.rules = {rule.id: rule for rule in rules if not any(each.covers(rule) for each in total)}
        self._exclusions = [each for each in exclusions if not each.is_total]
        self._sets = rule_sets(self.rules.values())
        self.most_arguments = most_arguments
        self._clean: set[bytes] = set()

    def inspect_head(self, exchange: Exchange) -> list[Match]:
        """Return the matches in path, query, headers and cookies."""
        found: list[Match] = []
        path = exchange.raw_path
        if b"%" in path:
            path = decoded(path, plus=False)
            found += self._anomalies(exchange.raw_path, path, RequestPart.PATH)
        found += self._matches(RequestPart.PATH, ((b"", path),))
        query = exchange.query
        if query:
            found += self._inspect_query(query)
        found += self._inspect_headers(exchange)
        return self._without_excluded(exchange, found) if found else found

    def inspect_body(self, exchange: Exchange, body: bytes) -> list[Match]:
        """Return the matches in a body, or in its beginning."""
        found: list[Match] = []
        types = exchange.values(b"content-type")
        if len(types) > 1:
            found += self._anomaly(protocol.SEVERAL_CONTENT_TYPES)
        content_type = types[0] if types else None
        if charset_of(content_type or b"") not in CHARSETS:
            found += self._anomaly(protocol.ODD_CHARSET)
        if (exchange.field(b"content-encoding") or b"").strip().lower() not in _DECLARED_BINARY:
            found += self._anomaly(protocol.ENCODED_BODY)
            return self._without_excluded(exchange, found)
        values = values_of(content_type, body, self.most_arguments)
        if values.is_malformed:
            found += self._anomaly(protocol.BAD_MULTIPART)
        if values.counts and len(values.arguments) > self.most_arguments:
            found += self._anomaly(protocol.TOO_MANY_ARGUMENTS)
        found += self._inspect_arguments(values.arguments)
        if values.text:
            found += self._matches(RequestPart.BODY, ((b"", decoded(values.text, plus=False)),))
        return self._without_excluded(exchange, found)

    # parts of a request

    def _inspect_query(self, query: bytes) -> list[Match]:
        if _PLAIN_QUERY(query) and query.count(b"&") < self.most_arguments:
            text = query.lower().replace(b"&", SEPARATOR).replace(b"=", SEPARATOR)
            if not self._sets[RequestPart.ARGUMENTS].matches(text):
                return []
        pairs = form_values(query, self.most_arguments)
        found = self._anomaly(protocol.TOO_MANY_ARGUMENTS) if len(pairs) > self.most_arguments else []
        return found + self._anomalies(query, b"", RequestPart.ARGUMENTS) + self._inspect_arguments(pairs)

    def _inspect_arguments(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[Match]:
        found: list[Match] = []
        texts = {text: name for name, value in dict.fromkeys(pairs) for text in (name, value) if text}
        whole = b"".join(texts)
        if b"\0" in whole or b"%" in whole or not whole.isascii():
            for text, name in texts.items():
                if b"\0" in text:
                    found += self._anomaly(protocol.NUL_BYTE, RequestPart.ARGUMENTS, name)
                if IS_OVERLONG(text):
                    found += self._anomaly(protocol.OVERLONG_UTF8, RequestPart.ARGUMENTS, name)
                if _ESCAPE(text):
                    found += self._anomaly(protocol.DEEP_ENCODING, RequestPart.ARGUMENTS, name)
        named = [*dict.fromkeys((name, text) for name, value in pairs for text in (name, value) if text)]
        return found + self._matches(RequestPart.ARGUMENTS, named)

    def _inspect_headers(self, exchange: Exchange) -> list[Match]:
        found: list[Match] = []
        lines = [
            (name, b'filename="%b"' % value if _NAMES_FILE(name) else value)
            for name, value in exchange.headers
            if name.lower() not in _SKIPPED
        ]
        text = b"\n".join([value for _, value in lines])
        if text not in self._clean:
            found += self._matches(RequestPart.HEADERS, lines)
            if not found:
                self._remember(text)
        for line in exchange.values(b"cookie"):
            if line not in self._clean:
                of_cookies = self._matches(RequestPart.COOKIES, [*_cookies(line)])
                if not of_cookies:
                    self._remember(line)
                found += of_cookies
        return found

    def _remember(self, text: bytes) -> None:
        if len(text) <= _REMEMBERED_BYTES:
            if len(self._clean) >= _REMEMBERED:
                self._clean.clear()
            self._clean.add(text)

    # matching

    def _matches(self, target: RequestPart, values: Sequence[tuple[bytes, bytes]]) -> list[Match]:
        """Return the matches in some values: in one pass over all of them, and only if there are any, in each."""
        rules = self._sets[target]
        texts = {value: normalized(value) for value in dict.fromkeys([value for _, value in values])}
        if not rules.matches(SEPARATOR.join(texts.values())):
            return []
        found: dict[int, Match] = {}
        for name, value in values:
            for rule in rules.matches(texts[value]):
                # a rule counts once; further names matter only where one of them is excluded
                if rule.id not in found or self._exclusions:
                    found.setdefault(len(found) if self._exclusions else rule.id, Match(rule, target.value, name))
        return [*found.values()]

    def _anomalies(self, raw: bytes, text: bytes, target: RequestPart) -> list[Match]:
        found: list[Match] = []
        if b"\0" in text:
            found += self._anomaly(protocol.NUL_BYTE, target)
        if not text.isascii() and IS_OVERLONG(text):
            found += self._anomaly(protocol.OVERLONG_UTF8, target)
        if b"%" in raw and _BAD_ESCAPE(raw):
            found += self._anomaly(protocol.BAD_PERCENT, target)
        return found

    def _anomaly(self, id: int, target: str = "request", name: bytes = b"") -> list[Match]:
        rule = self.rules.get(id)
        return [] if rule is None else [Match(rule, target, name)]

    def _without_excluded(self, exchange: Exchange, found: list[Match]) -> list[Match]:
        """Return the matches that count, each rule once."""
        kept: dict[int, Match] = {}
        for match in found:
            if not any(
                each.covers(match.rule)
                and (not each.arguments or match.name in each.arguments)
                and (not each.paths or any(pattern.fullmatch(exchange.path) for pattern in each.paths))
                for each in self._exclusions
            ):
                kept.setdefault(match.rule.id, match)
        return [*kept.values()]


def _cookies(line: bytes) -> Iterator[tuple[bytes, bytes]]:
    for pair in line.split(b";"):
        name, _, value = pair.strip().partition(b"=")
        yield name, decoded(name, plus=False)
        yield name, decoded(value, plus=False)


def score_of(found: Iterable[Match]) -> int:
    """Return the anomaly score: the sum of the severities."""
    return sum(match.rule.severity for match in found)
