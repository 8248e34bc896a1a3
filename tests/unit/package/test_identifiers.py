"""Names in the code are the field's standard terms: what is defined is not called by words of our own.

Each word here was once a name in fastgw; with it stands the term that is used in its place. Names are looked at as they
are defined: modules, classes, functions, parameters and attributes, in Python and in Cython. Strings, comments and the
settings' names (users have those in their files) are not.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parents[3] / "fastgw"
TERMS: Final = {
    "beating": "heartbeat",
    "birth": "bootstrap",
    "commons": "node_state",
    "desk": "refresh_coordinator",
    "doubts": "warnings",
    "estate": "handover_state",
    "flights": "single_flight",
    "ground": "worker_loop",
    "hanging": "hang_detection",
    "house": "package",
    "judge": "parser, verify, check",
    "judges": "parsers",
    "judging": "parsing",
    "keeping": "rollback_history",
    "ledger": "counter_store, counter_carry_over",
    "noted": "config_notes",
    "passage": "fast_path",
    "patience": "timeout",
    "place": "location, slot, index, offset",
    "places": "locations, slot_table, offsets",
    "pulse": "heartbeat_monitor",
    "sparing": "bad_file_isolation",
    "straight": "fast_path",
    "takeover": "take_over",
    "tally": "counters",
    "told": "describe, json_response, logged_at",
    "turnover": "two_phase_commit",
}
"""A word that no name has, and the terms that names have instead."""
WITH_PLACES: Final = (
    "consumers/",
    "downstream/",
    "eventloop/",
    "exchange/",
    "filters/",
    "gateway/",
    "http/",
    "jose/",
    "routing/",
    "upstream/connections/",
    "upstream/forwarding/",
    "upstream/targets/",
)
"""Folders with names of `place` that have not got their terms yet."""
PARTS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
CYTHON: Final = re.compile(
    r"^\s*(?:(?:cdef|cpdef)\s+(?:[\w.*\[\] ]+\s+\**)?|def\s+|class\s+|cdef\s+class\s+)(\w+)\s*(?=[(:=]|$)", re.MULTILINE
)
"""What a line of Cython defines: a function, a class or an attribute."""


def avoided(name: str, where: str = "") -> list[str]:
    """Return the words of a name that have a standard term. `where`: its file in the package."""
    found = [part for part in map(str.lower, PARTS.findall(name)) if part in TERMS]
    return [part for part in found if part not in ("place", "places") or not where.startswith(WITH_PLACES)]


def defined(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the names that a module defines for others to read, with their lines: no local variables."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        if isinstance(node, ast.ClassDef | ast.Module):
            for statement in node.body:
                targets = statement.targets if isinstance(statement, ast.Assign) else ()
                targets = (statement.target,) if isinstance(statement, ast.AnnAssign) else targets
                yield from ((each.lineno, each.id) for each in targets if isinstance(each, ast.Name))


class Module(NamedTuple):
    """Names that a module or a stub defines, as the rules below look at them."""

    where: str
    """The file relative to the package."""
    defined: list[tuple[int, str]]
    classes: list[str]
    """Of the module itself, not those within other classes and functions."""
    methods: list[tuple[int, str, str]]
    """Methods and functions of the module: line, owner with a dot or an empty string, and name."""


def read_module(source: str, where: str) -> Module:
    tree = ast.parse(source)
    methods = [
        (method.lineno, f"{each.name}." if isinstance(each, ast.ClassDef) else "", method.name)
        for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef | ast.Module)
        for method in each.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    classes = [each.name for each in tree.body if isinstance(each, ast.ClassDef)]
    return Module(where, [*defined(tree)], classes, methods)


@cache
def modules() -> list[Module]:
    """Return the modules and stubs of the package, which are parsed once for all rules."""
    return [
        read_module(file.read_text(), file.relative_to(ROOT).as_posix())
        for file in sorted(ROOT.rglob("*.py*"))
        if file.suffix in {".py", ".pyi"}
    ]


PLANTED: Final = """
PATIENCE_S = 5.0
class SecondJudge:
    birth: int = 0
    def told(self, commons, *, ground=None):
        self._ledger = commons
        patience = "the ground"  # a local variable
        return patience
class Background:
    in_flight = 0
"""
PLANTED_CYTHON: Final = """
cdef class SecondJudge:
    cdef SecondParser _judge
    def parse_request(self, bytes raw):
        judge = raw
cpdef int judge_request(bytes raw) except -1:
    pass
"""


def test_a_planted_name_is_found_and_a_local_variable_or_another_word_is_not() -> None:
    found = [(line, name) for line, name in defined(ast.parse(PLANTED)) if avoided(name)]
    names = ["PATIENCE_S", "SecondJudge", "birth", "commons", "ground", "told", "_ledger"]
    assert sorted(found) == sorted(zip([2, 3, 4, 5, 5, 5, 6], names, strict=True))


def test_a_planted_name_is_found_in_cython() -> None:
    found = [each for each in CYTHON.findall(PLANTED_CYTHON) if avoided(each)]
    assert found == ["SecondJudge", "_judge", "judge_request"]


@pytest.mark.parametrize("word", TERMS)
def test_the_term_in_its_place_is_not_avoided_itself(word: str) -> None:
    assert avoided(word) == [word]
    assert avoided(TERMS[word].replace(", ", "_")) == []


def test_names_are_standard_terms() -> None:
    found = []
    for module in modules():
        names = [*module.defined, (1, Path(module.where).stem)]
        found += [f"{module.where}:{line}: {name}" for line, name in names if avoided(name, module.where)]
    for file in sorted(ROOT.rglob("*.p[yx][xd]")):
        where = file.relative_to(ROOT).as_posix()
        found += [f"{where}: {name}" for name in CYTHON.findall(file.read_text()) if avoided(name, where)]
    assert found == []


def test_a_class_has_a_name_of_its_own() -> None:
    """Two public classes of one name are a setting and what is made of it, or what the admin API says of it."""
    places: dict[str, list[str]] = {}
    for module in modules():
        for name in module.classes if module.where.endswith(".py") else ():
            if not name.startswith("_"):
                places.setdefault(name, []).append(module.where)
    described = ("config/settings/", "admin/node_interface.py")
    twice = {name: files for name, files in places.items() if len(files) > 1}
    assert {
        name: files for name, files in twice.items() if sum(not each.startswith(described) for each in files) > 1
    } == {}


BARE: Final = frozenset(
    {
        "ask",
        "become",
        "begin",
        "begun",
        "bring",
        "call",
        "come",
        "feel",
        "fly",
        "follow",
        "give",
        "go",
        "go_on",
        "gone",
        "hear",
        "hush",
        "keep",
        "let",
        "look",
        "meet",
        "obey",
        "put",
        "said",
        "say",
        "see",
        "show",
        "stand",
        "take",
        "tell",
        "told",
        "turn",
        "want",
    }
)
"""Verbs that say nothing without an object, as the whole name of a method or function, public or private."""
WITH_OBJECT_ELSEWHERE: Final = {
    "Feed.ask": "part of `fastgw.filters.api`",
    "FinalResponse.begin": "of `http.client`",
    "FileSettings.keep": "a setting, as in `stories` and `analytics`",
}
"""Names that stay: others hold on to them."""
IN_WORK: Final = ("downstream/tcp/", "downstream/udp/", "filters/policies/grpc", "http/http2/")
"""Folders whose methods do not have their objects yet."""


def test_a_method_or_function_of_one_everyday_verb_has_its_object() -> None:
    """A bare `look` may be anything; `refresh_verdicts`, `check_files` and `count_attempts` can be searched for."""
    found = []
    for module in modules():
        if module.where.startswith(IN_WORK):
            continue
        for line, owner, name in module.methods:
            if name.removeprefix("_") in BARE and owner + name not in WITH_OBJECT_ELSEWHERE:
                found.append(f"{module.where}:{line}: {owner}{name}")
    assert found == []
