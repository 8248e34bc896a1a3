"""Inspection of requests by the rules: which rules match which values, less the exclusions, and the anomaly score."""

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple, Protocol, final

from fastgw.filters.policies.waf.body_values import form_values, values_of
from fastgw.filters.policies.waf.content_type import CHARSETS, charset_of
from fastgw.filters.policies.waf.header_values import unknown_values
from fastgw.filters.policies.waf.normalization import IS_OVERLONG
from fastgw.filters.policies.waf.rule_sets import rule_set, rule_sets
from fastgw.filters.policies.waf.rules import protocol
from fastgw.filters.policies.waf.rules.rule import RequestPart, Rule
from fastgw.filters.policies.waf.search_texts import cookie_text, cookie_values, decoded, plain_target, search_text

_ESCAPE: Final = re.compile(rb"%[0-9a-fA-F]{2}").search
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9a-fA-F]{2}|u[0-9a-fA-F]{4})").search
_SIGNS: Final = (b"-", b"_", b".", b"")
_NAMES_OF_FILES: Final = frozenset(b"x%bfile%bname" % (one, other) for one in _SIGNS for other in _SIGNS)
"""Headers that name an upload, as a part of a multipart body does."""
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
"""Headers that are not searched: opaque credentials, and values with a grammar of their own. Values with `${` are,
since services log any header (Log4Shell)."""
_REMEMBERED: Final = 4096
"""Maximum number of header and cookie texts without matches that are remembered, each up to `_REMEMBERED_BYTES`."""
_REMEMBERED_BYTES: Final = 1024
_DECLARED_BINARY: Final = (b"identity", b"")


class Exclusion(NamedTuple):
    """Matches that do not count. Empty `paths`: of all requests; empty `arguments`: in all values. `headers`: the same
    names in lower case.
    """

    rules: frozenset[int]
    tags: frozenset[str]
    paths: Sequence["re.Pattern[bytes]"]
    arguments: frozenset[bytes]
    headers: frozenset[bytes]

    @property
    def is_total(self) -> bool:
        return not self.paths and not self.arguments

    def covers(self, rule: Rule) -> bool:
        return rule.id in self.rules or not self.tags.isdisjoint(rule.all_tags)


class TextTooLong(Exception):
    """The text is longer than what is searched on the event loop."""


class InspectedRequest(Protocol):
    """Request as the rules see it: its head, or a `RequestCopy` of it."""

    @property
    def raw_path(self) -> bytes: ...

    @property
    def path(self) -> bytes: ...

    @property
    def query(self) -> bytes | None: ...

    def fields(self) -> Iterable[tuple[bytes, bytes]]:
        """Return the headers."""

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of a header, by its lower-case name."""


@final
class RequestCopy:
    """Copy of a request for another thread: the exchange may end meanwhile."""

    __slots__ = ("_fields", "path", "query", "raw_path")

    def __init__(self, request: InspectedRequest, without: bytes = b"", query: bytes | None = None) -> None:
        """`without`: name of a header that is left out. `query`: another query."""
        self.raw_path, self.path = request.raw_path, request.path
        self.query = request.query if query is None else query
        self._fields = tuple(each for each in request.fields() if each[0].lower() != without)

    def fields(self) -> tuple[tuple[bytes, bytes], ...]:
        return self._fields

    def values(self, name: bytes) -> list[bytes]:
        return [value for each, value in self._fields if each.lower() == name]


class Match(NamedTuple):
    """A rule that matches. `target`: where; `name`: of the argument, cookie or header."""

    rule: Rule
    target: str
    name: bytes

    def is_of(self, exclusion: Exclusion) -> bool:
        """Whether an exclusion names where it is. Names of headers are compared without case (RFC 9110 section 5.1)."""
        if self.target == RequestPart.HEADERS:
            return self.name.lower() in exclusion.headers
        return self.name in exclusion.arguments


@final
class Inspector:
    """Rules in use, with their exclusions. Raises `rule_sets.BadPattern`."""

    __slots__ = ("_clean_cookies", "_clean_values", "_exclusions", "_of_target", "_sets", "most_arguments", "rules")

    def __init__(self, rules: Iterable[Rule], exclusions: Sequence[Exclusion], most_arguments: int) -> None:
        total = [each for each in exclusions if each.is_total]
        self.rules = {rule.id: rule for rule in rules if not any(each.covers(rule) for each in total)}
        self._exclusions = [each for each in exclusions if not each.is_total]
        self._sets = rule_sets(self.rules.values())
        self._of_target = rule_set(self.rules.values(), {RequestPart.PATH, RequestPart.ARGUMENTS})
        self.most_arguments = most_arguments
        # two sets: cookies are decoded before they are searched, other headers are not
        self._clean_values: set[bytes] = set()
        self._clean_cookies: set[bytes] = set()

    def inspect_head(self, request: InspectedRequest, most: int | None = None) -> list[Match]:
        """Return the matches in path, query, headers and cookies. `most`: bytes of path and query, and of headers, that
        are searched here. Raises `TextTooLong` for more. Texts without matches that are remembered do not count.
        """
        found: list[Match] = []
        path, query = request.raw_path, request.query
        if most is not None and len(path) + len(query or b"") > most:
            raise TextTooLong
        if not self._is_plain_target(path, query):
            found += self._inspect_target(path, query)
        found += self._inspect_headers(request, most)
        return self._without_excluded(request, found) if found else found

    def _is_plain_target(self, path: bytes, query: bytes | None) -> bool:
        """Whether path and query need no decoding, and no rule matches, in one pass. False: it may."""
        text = plain_target(path, query, self.most_arguments)
        return text is not None and not self._of_target.matches(text, is_plain=True)

    def _inspect_target(self, raw_path: bytes, query: bytes | None) -> list[Match]:
        found: list[Match] = []
        path = raw_path
        if b"%" in path:
            path = decoded(path, plus=False)
            found += self._anomalies(raw_path, path, RequestPart.PATH)
        if rules := self._rules_in(RequestPart.PATH, (path,)):
            found += self._matches(RequestPart.PATH, ((b"", path),), rules)
        if query:
            found += self._inspect_query(query)
        return found

    def inspect_body(self, request: InspectedRequest, body: bytes) -> list[Match]:
        """Return the matches in a body, or in its beginning."""
        found: list[Match] = []
        types = request.values(b"content-type")
        if len(types) > 1:
            found += self._anomaly(protocol.SEVERAL_CONTENT_TYPES)
        content_type = types[0] if types else None
        if charset_of(content_type or b"") not in CHARSETS:
            found += self._anomaly(protocol.ODD_CHARSET)
        if any(each.strip().lower() not in _DECLARED_BINARY for each in request.values(b"content-encoding")):
            found += self._anomaly(protocol.ENCODED_BODY)
            return self._without_excluded(request, found)
        values = values_of(content_type, body)
        if values.is_encoded:
            found += self._anomaly(protocol.ODD_CHARSET)
        if values.is_malformed:
            found += self._anomaly(protocol.BAD_MULTIPART)
        if values.counted > self.most_arguments:
            found += self._anomaly(protocol.TOO_MANY_ARGUMENTS)
        found += self._inspect_arguments(values.arguments)
        if values.text:
            text = decoded(values.text, plus=False)
            if rules := self._rules_in(RequestPart.BODY, (text,)):
                found += self._matches(RequestPart.BODY, ((b"", text),), rules)
        return self._without_excluded(request, found)

    # parts of a request

    def _inspect_query(self, query: bytes) -> list[Match]:
        pairs = form_values(query)
        found = self._anomaly(protocol.TOO_MANY_ARGUMENTS) if len(pairs) > self.most_arguments else []
        if b"%" in query and _BAD_ESCAPE(query):
            found += self._anomaly(protocol.BAD_PERCENT, RequestPart.ARGUMENTS)
        return found + self._inspect_arguments(pairs)

    def _inspect_arguments(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[Match]:
        found: list[Match] = []
        texts = dict.fromkeys(chain.from_iterable(pairs))
        texts.pop(b"", None)
        whole = b"".join(texts)
        if b"\0" in whole or b"%" in whole or not whole.isascii():
            for name, text in _named_texts(pairs):
                if b"\0" in text:
                    found += self._anomaly(protocol.NUL_BYTE, RequestPart.ARGUMENTS, name)
                if IS_OVERLONG(text):
                    found += self._anomaly(protocol.OVERLONG_UTF8, RequestPart.ARGUMENTS, name)
                if _ESCAPE(text):
                    found += self._anomaly(protocol.DEEP_ENCODING, RequestPart.ARGUMENTS, name)
        rules = self._rules_in(RequestPart.ARGUMENTS, texts)
        if not rules:
            return found
        named = _named_texts(pairs)
        return found + self._matches(RequestPart.ARGUMENTS, named, rules)

    def _inspect_headers(self, request: InspectedRequest, most: int | None) -> list[Match]:
        values, cookies = unknown_values(request, _SKIPPED, _NAMES_OF_FILES, self._clean_values, self._clean_cookies)
        if not values and not cookies:
            return []
        found: list[Match] = []
        if most is not None and sum(len(value) for _, value in values) + sum(map(len, cookies)) > most:
            raise TextTooLong
        if values:
            texts = [value for _, value in values]
            if rules := self._rules_in(RequestPart.HEADERS, texts):
                found += self._matches(RequestPart.HEADERS, values, rules)
            else:
                _remember(self._clean_values, texts)
        for line in cookies:
            text, is_plain = cookie_text(line)
            if rules := self._sets[RequestPart.COOKIES].matches(text, is_plain=is_plain):
                found += self._matches(RequestPart.COOKIES, cookie_values(line), rules)
            else:
                _remember(self._clean_cookies, (line,))
        return found

    # matching

    def _rules_in(self, target: RequestPart, texts: Iterable[bytes]) -> Sequence[Rule]:
        """Return the rules that match, in one pass over all texts."""
        text, is_plain = search_text(texts)
        return self._sets[target].matches(text, is_plain=is_plain)

    def _matches(
        self, target: RequestPart, values: Sequence[tuple[bytes, bytes]], rules: Sequence[Rule]
    ) -> list[Match]:
        """Return in which of the values these rules match."""
        values = [*dict.fromkeys(values)]
        texts = [search_text((value,))[0] for _, value in values]
        # a rule counts once; further values matter only where one of them is excluded
        found = self._sets[target].locate(texts, rules, once=not self._exclusions)
        return [Match(rule, target.value, values[index][0]) for index, rule in found]

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

    def _without_excluded(self, request: InspectedRequest, found: list[Match]) -> list[Match]:
        """Return the matches that count, each rule once."""
        kept: dict[int, Match] = {}
        for match in found:
            if not any(
                each.covers(match.rule)
                and (not each.arguments or match.is_of(each))
                and (not each.paths or any(pattern.fullmatch(request.path) for pattern in each.paths))
                for each in self._exclusions
            ):
                kept.setdefault(match.rule.id, match)
        return [*kept.values()]


def _named_texts(pairs: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the names and values that are not empty, each once with the name of each argument that has it."""
    return [*dict.fromkeys((name, text) for name, value in pairs for text in (name, value) if text)]


def _remember(clean: set[bytes], texts: Iterable[bytes]) -> None:
    for text in texts:
        if len(text) <= _REMEMBERED_BYTES:
            if len(clean) >= _REMEMBERED:
                clean.clear()
            clean.add(text)


def score_of(found: Iterable[Match]) -> int:
    """Return the anomaly score: the sum of the severities."""
    return sum(match.rule.severity for match in found)
