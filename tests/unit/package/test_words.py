"""Texts for users are in the field's standard terms: messages, help, the settings' manuals, the dashboard and the docs.

People search for the words that nginx, Envoy, HAProxy, Kong and the RFCs have. The patterns here are phrases that were
once in messages of fastgw, each with the term that is used in its place. Docstrings of what is not a setting, a filter
or a command are for those who work on fastgw, and not looked at.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
TERMS: Final = {
    r"under way": "in flight; in progress",
    r"\b(?:is|are) away\b": "is unreachable",
    r"who may pass|let in who|\blets? in\b|\bnobody can pass\b": "authentication; every request is refused",
    r"who shows\b|vouches for": "authenticate with",
    r"nothing is wrong": "configuration is valid",
    r"a repeated key": "duplicate key; first defined on line 3",
    r"exclude each other": "are mutually exclusive",
    r"drawn by lot|by turns": "random; round robin; power of two choices",
    r"framed anew": "re-serialized",
    r"has no say": "runs on the response only",
    r"is no value of a request": "unknown variable",
    r"not the form of a secret": "not a valid secret",
    r"stands above": "see the errors above",
    r"is spared|are spared": "the circuit breaker is open",
    r"come again": "try again later",
    r"in IPv6 clothes": "IPv4-mapped IPv6 address",
    r"comes into debt": "goes into overdraft",
    r"a mapping of settings|text in one line|at least a list of one": "object; single-line string; non-empty list",
    r"farther levels?|nearer levels?": "outer level; inner level",
    r"has not beaten|\bbeats again": "has sent no heartbeat; sends heartbeats again",
    r"gets? to see\b": "strip before forwarding; forward",
    r"goes over to the version": "upgrades in place",
    r"no compiled twin": "no compiled modules",
    r"anybody in between": "an attacker in between",
    r"against forged requests": "CSRF token",
    r"what is wrong stands|not what is expected": "see the errors above; not a valid value",
    r"\bfield names?\b|\bHost field\b|\brequest fields?\b|\bresponse fields?\b": "header",
}
"""What is not written, as a regular expression, and what is."""
AVOIDED: Final = re.compile("|".join(f"(?:{each})" for each in TERMS), re.IGNORECASE)
OF_PAGES: Final = {
    r"\bwho(?:m)?ever\b": "every client that",
    r"\blikewise\b": "also; the same holds for",
    r"\bpatience\b": "timeout",
    r"\banew\b": "again",
    r"\bbesides\b": "in addition to",
    r"\b(?:is|are) told\b": "is reported; gets",
    r"\bits kin\b": "and similar ones",
    r"\bwhat is wrong\b": "the errors",
    r"\bat hand\b": "available",
    r"\bgood answers?\b": "successful checks",
    r"\bgo(?:es)? by\b": "uses; depends on",
    r"\bmay be picked\b": "is available",
    r"\bwho (?:may|comes|sends|lacks|shows)\b": "a client that",
    r"\bhow it fares\b": "its state",
}
"""The same for pages, comments of examples and manuals, where sentences are read without their code beside them."""
AVOIDED_IN_PAGES: Final = re.compile("|".join(f"(?:{each})" for each in (*TERMS, *OF_PAGES)), re.IGNORECASE)
MANUALS: Final = ("config/settings/", "filters/policies/")
"""Folders of settings and filters: their docstrings are docs/reference, and the JSON schema."""


def avoided(text: str, phrases: re.Pattern[str] = AVOIDED) -> list[str]:
    """Return the phrases of a text that have a standard term."""
    return [found[0] for found in phrases.finditer(" ".join(text.split()))]


def docstrings(nodes: Iterable[ast.AST]) -> Iterator[ast.Constant]:
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value


def manuals(nodes: Iterable[ast.AST]) -> Iterator[ast.Constant]:
    """Yield the docstrings of classes and their attributes: of settings and filters they are the manual."""
    for node in nodes:
        if isinstance(node, ast.ClassDef) and node.bases:
            for statement in node.body:
                if isinstance(statement, ast.Expr):
                    yield from docstrings(ast.walk(statement))


def texts(source: str, *, is_manual: bool) -> Iterator[tuple[int, str]]:
    """Yield the strings of a module that users may read, with their lines: literals and, of settings, the manual."""
    nodes = [*ast.walk(ast.parse(source))]
    skipped = {id(each) for each in docstrings(nodes)} - ({id(each) for each in manuals(nodes)} if is_manual else set())
    for node in nodes:
        if isinstance(node, ast.Constant) and id(node) not in skipped and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if " " in text:
                yield node.lineno, text


PLANTED: Final = '''"""A module in whose docstring requests are under way."""
from fastgw.config.base.settings_base import Settings

class State(Settings):
    """A store that nodes share; while it is away each counts for itself."""

    url: str
    """Its URL; others exclude each other."""

    def check(self) -> None:
        """Requests are under way."""
        raise ValueError(f"{self.url} and path exclude " "each other", b"come again later", "fine, in flight")
'''


def test_a_planted_phrase_is_found_in_messages_and_manuals_and_not_in_other_docstrings() -> None:
    found = [(line, each) for line, text in texts(PLANTED, is_manual=True) for each in avoided(text)]
    assert sorted(found) == [(5, "is away"), (8, "exclude each other"), (12, "come again"), (12, "exclude each other")]
    found = [(line, each) for line, text in texts(PLANTED, is_manual=False) for each in avoided(text)]
    assert sorted(found) == [(12, "come again"), (12, "exclude each other")]


@pytest.mark.parametrize("pattern", TERMS | OF_PAGES)
def test_the_term_in_its_place_is_not_avoided_itself(pattern: str) -> None:
    assert avoided((TERMS | OF_PAGES)[pattern], AVOIDED_IN_PAGES) == []


def test_a_phrase_that_only_pages_avoid_is_found_there_also_over_the_end_of_a_line() -> None:
    text = "Whoever connects is\ntold so, as are all clients besides."
    assert avoided(text, AVOIDED_IN_PAGES) == ["Whoever", "is told", "besides"]
    assert avoided(text) == []


def test_messages_help_and_manuals_use_the_standard_terms() -> None:
    found = []
    for file in sorted((ROOT / "fastgw").rglob("*.py")):
        name = file.relative_to(ROOT / "fastgw").as_posix()
        for line, text in texts(file.read_text(), is_manual=name.startswith(MANUALS)):
            found += [f"{name}:{line}: {each!r}" for each in avoided(text)]
    assert found == []


def test_the_dashboard_uses_the_standard_terms() -> None:
    files = [each for each in sorted((ROOT / "fastgw" / "admin" / "dashboard").rglob("*.*")) if each.suffix in SHOWN]
    assert len(files) > 3
    assert in_paragraphs(files, AVOIDED) == []


def test_pages_and_the_comments_of_examples_use_the_standard_terms() -> None:
    folders = {"docs": "*.md", "deploy": "*.*", "examples": "*.*"}
    files = [ROOT / "README.md", *(each for name, suffix in folders.items() for each in (ROOT / name).rglob(suffix))]
    read = sorted(each for each in files if each.suffix in READ)
    assert len(read) > 60
    assert in_paragraphs(read, AVOIDED_IN_PAGES) == []


def test_the_manuals_of_settings_and_filters_use_the_standard_terms() -> None:
    found = []
    for folder in MANUALS:
        for file in sorted((ROOT / "fastgw" / folder).rglob("*.py")):
            for each in manuals(ast.walk(ast.parse(file.read_text()))):
                found += [f"{file.name}:{each.lineno}: {one!r}" for one in avoided(str(each.value), AVOIDED_IN_PAGES)]
    assert found == []


def in_paragraphs(files: list[Path], phrases: re.Pattern[str]) -> list[str]:
    """Return the phrases in these files, also those over the end of a line, with the line of their paragraph."""
    found = []
    for file in files:
        line = 1
        for paragraph in re.split(r"(\n[ #]*\n)", file.read_text()):
            text = re.sub(r"\n\s*# ", "\n", paragraph)
            found += [f"{file.relative_to(ROOT)}:{line}: {each!r}" for each in avoided(text, phrases)]
            line += paragraph.count("\n")
    return found


READ: Final = (".md", ".yaml", ".toml", ".service", ".socket", ".sysusers")
SHOWN: Final = (".html", ".js", ".css")
