"""The rules of the WAF refuse attacks and let ordinary requests pass."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from fastgw.filters.policies.waf.inspection import Inspector, Match, score_of
from fastgw.filters.policies.waf.rules import DEFAULT_RULES
from fastgw.http.http1.parser import parse_request
from fastgw.http.malformed import Malformed
from tests.support.waf import HARMLESS, Case, regression_cases

GUIDE = Path(__file__).parents[4] / "docs/guides/waf.md"
CLASSES = {
    913: "Scanners",
    921: "Protocol attacks",
    922: "Multipart",
    930: "Local files",
    931: "Remote files",
    932: "Commands",
    933: "PHP",
    934: "JavaScript",
    941: "Cross-site scripting",
    942: "SQL injection",
    943: "Session fixation",
    944: "Java",
}


@cache
def inspector(paranoia: int = 1) -> Inspector:
    return Inspector([rule for rule in DEFAULT_RULES if rule.paranoia <= paranoia], (), 200)


def matches(request: bytes, paranoia: int = 1) -> list[Match]:
    head = parse_request(request[: request.index(b"\r\n\r\n") + 4])
    body = request.partition(b"\r\n\r\n")[2]
    found = inspector(paranoia).inspect_head(head)
    return found + inspector(paranoia).inspect_body(head, body[:16384]) if body else found


def is_refused(case: Case) -> bool:
    """Whether a request is refused: by rules, or as one that is no valid HTTP."""
    try:
        return score_of(matches(case.request)) >= 5
    except Malformed:
        return True


def rates() -> str:
    """The table of the guide: attacks of level 1, and how many of them are refused at paranoia 1."""
    attacks = [case for case in regression_cases() if case.attack and case.level == 1]
    lines, total = [], [0, 0, 0]
    for number, name in CLASSES.items():
        cases = [case for case in attacks if case.rule // 1000 == number]
        row = [len(cases), sum(map(is_refused, cases)), sum(case.crs for case in cases)]
        total = [before + here for before, here in zip(total, row, strict=True)]
        lines.append(f"| {name} ({number}) | {row[0]} | {row[1]} | {row[2]} |\n")
    return "".join([*lines, f"| All | {total[0]} | {total[1]} | {total[2]} |\n"])


def test_the_guide_says_how_many_attacks_are_refused() -> None:
    """A rule that refuses fewer attacks, or more, changes the guide."""
    assert rates() in GUIDE.read_text(), f"expected in the guide:\n{rates()}"


@pytest.mark.parametrize("number", range(len(HARMLESS)))
def test_ordinary_requests_pass(number: int) -> None:
    """Not a single rule matches them at level 1, not even one below the threshold."""
    assert matches(HARMLESS[number]) == []


def test_the_guide_says_how_many_ordinary_requests_there_are() -> None:
    assert f"All of {len(HARMLESS)} ordinary requests pass" in GUIDE.read_text()
