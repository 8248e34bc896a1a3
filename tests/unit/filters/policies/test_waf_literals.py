"""Literals that the rules of the firewall require: no text that a rule matches is taken for one without a match."""

from __future__ import annotations

import re
import warnings

import pytest
import re2
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastgw.config.base.route_patterns import re2_options
from fastgw.filters.policies.waf.literal_search import LiteralSearch
from fastgw.filters.policies.waf.required_literals import PLAIN_CHARACTERS, required_literals
from fastgw.filters.policies.waf.rule_sets import rule_sets
from fastgw.filters.policies.waf.rules import DEFAULT_RULES
from fastgw.filters.policies.waf.rules.rule import RequestPart, Rule
from fastgw.filters.policies.waf.search_texts import search_text
from tests.support.table import for_each

RULES = [rule for rule in DEFAULT_RULES if rule.pattern]
SETS = rule_sets(RULES)


@for_each(
    ("pattern", "literals"),
    [
        (rb"union select", {b"union select"}),
        (rb"\bxp_(?:cmd|reg)", {b"xp_cmd", b"xp_reg"}),
        (rb"(?:a|bc)d?e", {b"ade", b"bcde", b"ae", b"bce"}),
        (rb"ab+c", {b"ab"}),
        (rb"ab*cde", {b"cde"}),
        (rb"[0-9]+ or [0-9]", {b" or %d" % each for each in range(10)}),
        (rb"(?:ab){2}", {b"abab"}),
        (rb"a{3,}", {b"aaa"}),
        (rb"x^yz", {b"yz"}),
        (rb"ab$cde", {b"cde"}),
        (rb"\Aab\z", {b"ab"}),
        (rb"a.{0,9}bcd", {b"bcd"}),
        (rb"[xy]z", {b"xz", b"yz"}),
        (rb"[^a-z0-9_.,:=@~/ \x00]b", {b"-b"}),
        (rb"(?:a|b)*", None),
        (rb"a?", None),
        (rb"", None),
        (rb"a|.", None),
        (rb"<script", set()),
        (rb"A", set()),
        (rb"a|<b", {b"a"}),
        (rb"a\(?b", {b"ab"}),
        (rb"(?:<|>)*ab", {b"ab"}),
        (rb"0123456789abcdefghij", {b"0123456789abcdef"}),
        (rb"(?i)aB", {b"ab"}),
        (rb"(?i)[A-B]c[^D]", {b"ac", b"bc"}),
        (rb"(?i)\x41b", {b"ab"}),
        (rb"(?i)[^A-Z0-9/]-", {each + b"-" for each in (b"_", b".", b",", b":", b"=", b"@", b"~", b" ", b"-", b"\0")}),
        (rb"(?s)a", None),
        (rb"\pLab", None),
        (rb"[[:alpha:]]ab", None),
        (rb"\Qa.b\E", None),
        (rb"(a", None),
        (b"(?:" * 60 + b"a" + b")" * 60, None),
    ],
)
def test_what_patterns_require(pattern: bytes, literals: set[bytes] | None) -> None:
    found = required_literals(pattern)
    assert found == (None if literals is None else frozenset(literals))


def test_default_rules_of_the_first_level_require_literals() -> None:
    assert [rule.id for rule in RULES if rule.paranoia == 1 and required_literals(rule.pattern) is None] == []


Sample = tuple[bytes, bytes]
"""A pattern and a text that it matches."""
CHARACTERS = st.sampled_from([bytes((each,)) for each in b"ab01 -./=_"])


def classes() -> st.SearchStrategy[Sample]:
    listed = st.lists(CHARACTERS, min_size=1, max_size=4, unique=True).flatmap(
        lambda held: st.sampled_from(held).map(lambda one: (b"[%b]" % b"".join(map(re.escape, held)), one))
    )
    special = st.sampled_from(
        [(rb"\d", b"7"), (rb"\w", b"_"), (rb"\s", b" "), (rb"\W", b"-"), (rb".", b"="), (rb"\b", b"")]
    )
    negated = st.sampled_from([(b"[^ab]", b"0"), (b"[^a-z]", b"-"), (b"[a-c]", b"b"), (b"[^<]", b"a"), (b"[<a]", b"a")])
    return listed | special | negated


def grown(inner: st.SearchStrategy[Sample]) -> st.SearchStrategy[Sample]:
    def repeated(held: tuple[Sample, tuple[bytes, int]]) -> Sample:
        (pattern, text), (sign, times) = held
        return b"(?:%b)%b" % (pattern, sign), text * times

    signs = st.sampled_from(
        [(b"*", 0), (b"*", 2), (b"+", 1), (b"+", 3), (b"?", 0), (b"?", 1), (b"{2}", 2), (b"{1,3}", 3)]
    )
    signs |= st.sampled_from([(b"*?", 1), (b"{0,2}", 0), (b"{2,}", 5), (b"{6}", 6), (b"{1}", 1)])
    joined = st.lists(inner, min_size=1, max_size=4).map(
        lambda parts: (b"".join(each for each, _ in parts), b"".join(each for _, each in parts))
    )
    either = st.tuples(st.lists(inner, min_size=1, max_size=3), st.randoms(use_true_random=False)).map(
        lambda held: (b"(?:%b)" % b"|".join(each for each, _ in held[0]), held[1].choice(held[0])[1])
    )
    return joined | either | st.tuples(inner, signs).map(repeated)


SAMPLES = st.recursive(CHARACTERS.map(lambda one: (re.escape(one), one)) | classes(), grown, max_leaves=12)


@settings(max_examples=400)
@given(SAMPLES, CHARACTERS, CHARACTERS, st.booleans())
@example((rb"x^y", b"x\0y"), b"a", b"b", False)
def test_every_match_has_one_of_them(sample: Sample, before: bytes, after: bytes, folds: bool) -> None:
    pattern, text = sample
    if folds:
        pattern = b"(?i)" + pattern.replace(b"a", b"A")
    literals = required_literals(pattern)
    text = before + text + after
    if literals is not None and re2.compile(pattern, re2_options()).search(text):
        assert any(each in text for each in literals)


def in_python(rule: Rule) -> re.Pattern[bytes] | None:
    """Return the pattern in Python's syntax. None: RE2 alone has its syntax."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return re.compile(rule.pattern)
        except re.error:
            return None


PATTERNS = [(rule, pattern) for rule in RULES if (pattern := in_python(rule)) is not None]


@pytest.mark.parametrize(("rule", "pattern"), PATTERNS, ids=[str(rule.id) for rule, _ in PATTERNS])
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_plain_match_of_a_rule_has_one_of_its_literals(
    rule: Rule, pattern: re.Pattern[bytes], data: st.DataObject
) -> None:
    text = data.draw(st.from_regex(pattern, fullmatch=True)).lower()
    plain = bytes(each for each in text if each in PLAIN_CHARACTERS)
    literals = required_literals(rule.pattern)
    if literals is not None and re2.compile(rule.pattern, re2_options()).search(plain):
        assert any(each in plain for each in literals)


WORDS = sorted({word for rule in RULES for word in re.findall(rb"[a-z0-9_./:=@-]{2,}", rule.pattern)})
PIECES = (
    st.sampled_from(WORDS)
    | CHARACTERS
    | st.sampled_from([b"\0", b"select", b"from", b"union", b"1=1", b" or ", b"../"])
)


@settings(max_examples=500)
@given(st.lists(PIECES, min_size=1, max_size=12).map(b"".join), st.sampled_from(list(RequestPart)))
@example(b"1 union select a from b", RequestPart.ARGUMENTS)
@example(b"../../etc/passwd", RequestPart.PATH)
def test_plain_text_matches_the_same_rules_however_it_is_searched(text: bytes, part: RequestPart) -> None:
    text, is_plain = search_text(text.split(b"\0"))
    assert is_plain
    assert [*SETS[part].matches(text, is_plain=True)] == [*SETS[part].matches(text)]


@pytest.mark.parametrize(
    ("literals", "with_one", "without"),
    [
        ([], [], [b"", b"a"]),
        ([b"a"], [b"a", b"ba", b"ab"], [b"", b"b", b"A"]),
        ([b"abab", b"b/"], [b"aabab", b"ab/", b"ababab"], [b"aba", b"baab"]),
        ([b"aab", b"ab/", b"aabc"], [b"aaab/", b"caab"], [b"aa", b"abc", b"a/b"]),
        ([bytes((each,)) for each in range(256)], [b"\xff", b"\x00"], [b""]),
    ],
)
def test_texts_with_a_literal_are_told_from_others(
    literals: list[bytes], with_one: list[bytes], without: list[bytes]
) -> None:
    finds = LiteralSearch(literals)
    assert [*map(finds, with_one)] == [True] * len(with_one)
    assert [*map(finds, without)] == [False] * len(without)


LITERALS = st.lists(st.text("ab/", min_size=1, max_size=5).map(str.encode), max_size=8)


@given(LITERALS, st.lists(st.text("ab/.", max_size=12).map(str.encode), min_size=1, max_size=6))
@example([], [b"a"])
@example([b"abab", b"b"], [b"aba", b"a"])
@example([b"aab", b"ab/"], [b"aaab/", b"aab", b"aa"])
@example([bytes((each,)) for each in range(256)], [b"\xff", b"\x00", b""])
def test_all_texts_with_a_literal_are_found(literals: list[bytes], texts: list[bytes]) -> None:
    finds = LiteralSearch(literals)
    for text in texts:
        assert finds(text) == any(each in text for each in literals)
