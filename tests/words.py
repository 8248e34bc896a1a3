"""`make words`: names, docstrings, messages and pages that are not in the field's standard terms.

People search for the words that nginx, Envoy, HAProxy, Kong and the RFCs have. Each pattern here was once in fastgw,
and has beside it the term that is used in its place. The rules are few and dumb on purpose: none tries to parse
English, so this is advice and no test. Exit code 1 if there is any.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
Advice = Iterator[tuple[int, str]]
"""Lines, each with what could be better there."""

NAMES = {
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
    "patience": "timeout",
    "pulse": "heartbeat_monitor",
    "sparing": "bad_file_isolation",
    "takeover": "take_over",
    "tally": "counters",
    "told": "describe, json_response, logged_at",
    "turnover": "two_phase_commit",
}
"""Parts of the names of modules, classes, functions, parameters and attributes."""
VERBS = set(  # as a text: a column of 36 words would say no more
    "ask become begin begun bring call come feel fly follow give go go_on gone hear hush keep let look meet obey "  # noqa: SIM905
    "put said say see show stand take tell told turn want".split()
)
"""Whole names of functions that say nothing without an object: `look` may be anything, `check_files` can be found."""
MESSAGES = {
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
    r"\btwins?\b": "compiled module",
    r"anybody in between": "an attacker in between",
    r"against forged requests": "CSRF token",
    r"what is wrong stands|not what is expected": "see the errors above; not a valid value",
    r"\bfield names?\b|\bHost field\b|\brequest fields?\b|\bresponse fields?\b|forwarding fields": "header",
}
"""Phrases of messages, help, the dashboard and pages, as regular expressions."""
PAGES = MESSAGES | {
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
"""Phrases of pages and manuals, which are read without their code beside them."""
COMMENTS = {
    r"\bunder way\b": "in flight; in progress",
    r"\b(?:is|are|was|were) away\b": "is unreachable",
    r"\b(?:is|are|be|was|were) told\b": "is reported; receives",
    r"\b(?:no|some|any)body\b": "the client; the operator; another process",
    r"\bwho(?:m)?ever\b": "every client that",
    r"\bwho (?:asks|lacks|shows|wants)\b": "a client that",
    r"\bvouches\b": "authenticates",
    r"\blikewise\b": "also; in the same way",
    r"\banew\b": "again",
    r"\bbesides\b": "in addition to",
    r"\bat hand\b": "available",
    r"\bdearer\b": "more expensive",
    r"\bpatience\b": "timeout",
    r"\bits kin\b": "and similar ones",
    r"\bby lot\b|\bby turns\b": "random; round robin",
    r"\bwhat is wrong\b|\bnothing is wrong\b": "the error; it is valid",
    r"\bhas no say\b": "is not used",
    r"\bstands above\b": "see the errors above",
    r"\bframed anew\b": "re-serialized",
    r"\bfares?\b": "its state",
    r"\bought to\b": "must",
}
"""Phrases of docstrings and comments."""
HEADLESS = re.compile(
    r"(?!How (?:many|much|long|often|far|large|deep|old|late|soon|near)\b|To be \w+ed\b|(?:In|By|As|So)-"
    r"|(?:For|With|At|Within)(?: an?| the)? [`\w.]+(?: [`\w]+)?:)"  # a quantity, a label
    r"(?:(?:What|Whatever|Who|Whom|Whose|Which|Where|Why|How|That|It|Its|They|Their|Them|He|His|Those|These"
    r"|Of|As|In|By|From|To|For|With|Without|Within|Until|After|At|Beside|Among|Behind|Before"
    r"|So|Such|Also|Told|Stands|Goes|Somebody|Someone|Something|Nobody|Nothing|Anybody|Anything|Somewhere"
    r"|And|But|Or|Likewise|Ditto|There)\b"
    r"|The same(?:[.:;,]| as| for| of| in| but| with)|One of (?:them|those|these)\b"
    r"|(?:This|That) (?:is|was|has|does|may|can|must|will|alone)\b)"
)
"""Beginnings of a docstring that leave out its subject: the first sentence is what a search for the subject finds."""
MANUALS = ("fastgw/config/settings/", "fastgw/filters/policies/")
"""Folders of settings and filters: their docstrings are docs/reference."""
CYTHON_DOCSTRING = re.compile(r'^[ \t]*"""(?!\n)(.*?)"""', re.MULTILINE | re.DOTALL)
CYTHON_NAME = re.compile(
    r"^\s*(?:(?:cdef|cpdef)\s+(?:[\w.*\[\] ]+\s+\**)?|def\s+|class\s+|cdef\s+class\s+)(\w+)\s*(?=[(:=]|$)", re.MULTILINE
)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
NAME_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def phrases(text: str, terms: Mapping[str, str]) -> Iterator[str]:
    """Yield the phrases of a text that have a standard term, with it; names in backticks may be any."""
    text = re.sub(r"`[^`]*`", "``", " ".join(text.split()))
    if not re.search("|".join(terms), text, re.IGNORECASE):  # most have none
        return
    for pattern, term in terms.items():
        yield from (f"{found[0]!r}: {term}" for found in re.finditer(pattern, text, re.IGNORECASE))


def about_name(name: str) -> Iterator[str]:
    """Yield the parts of a name that have a standard term."""
    yield from (f"{name}: {NAMES[part]}" for part in map(str.lower, NAME_PART.findall(name)) if part in NAMES)


def about_docstring(text: str, *, is_manual: bool = False, is_product: bool = True) -> Iterator[str]:
    """Yield what a docstring's beginning leaves out, of the product, and its phrases."""
    if is_product and (found := HEADLESS.match(text.strip())):
        yield f"the docstring begins with {found[0]!r}: name its subject first"
    yield from phrases(text, PAGES if is_manual else COMMENTS)


def about_module(source: str, *, is_manual: bool, is_product: bool) -> Advice:
    """Yield advice on the docstrings and comments of a Python module and, of the product, on its names and messages."""
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        for statement in node.body if isinstance(node, DOCUMENTED) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str() as text) as docstring):
                    docstrings.add(id(docstring))
                    found = about_docstring(text, is_manual=is_manual, is_product=is_product)
                    yield from ((docstring.lineno, each) for each in found)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from ((token.start[0], each) for each in phrases(token.string, COMMENTS))
    for node in ast.walk(tree) if is_product else ():
        if isinstance(node, ast.Constant) and id(node) not in docstrings and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            yield from ((node.lineno, each) for each in phrases(text, MESSAGES) if " " in text)
        elif isinstance(node, ast.arg):
            yield from ((node.lineno, each) for each in about_name(node.arg))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from ((node.lineno, each) for each in about_name(node.attr))
        elif isinstance(node, DOCUMENTED) and not isinstance(node, ast.Module):
            yield from ((node.lineno, each) for each in about_name(node.name))
            if not isinstance(node, ast.ClassDef) and node.name.removeprefix("_") in VERBS:
                yield node.lineno, f"{node.name}: a verb without its object"


def about_cython(source: str) -> Advice:
    """Yield advice on the names and docstrings of a Cython module, which no parser available here reads."""
    for found in CYTHON_DOCSTRING.finditer(source):
        line = source.count("\n", 0, found.start()) + 1
        yield from ((line, each) for each in about_docstring(found[1]))
    for found in CYTHON_NAME.finditer(source):
        line = source.count("\n", 0, found.start(1)) + 1
        yield from ((line, each) for each in about_name(found[1]))


def about_page(text: str, terms: Mapping[str, str]) -> Advice:
    """Yield advice on the paragraphs of a page or of a configuration's comments, each at its first line."""
    line = 1
    for paragraph in re.split(
        r"(\n[ #]*\n)", re.sub(r"^```.*?^```$", _only_lines, text, flags=re.MULTILINE | re.DOTALL)
    ):
        yield from ((line, each) for each in phrases(re.sub(r"\n\s*# ", "\n", paragraph), terms))
        line += paragraph.count("\n")


def _only_lines(block: re.Match[str]) -> str:
    return "\n" * block[0].count("\n")


def advice(file: Path) -> Advice:
    """Yield advice on a file of the repository, by its kind."""
    name = file.relative_to(ROOT).as_posix()
    if file.suffix in (".py", ".pyi"):
        return about_module(file.read_text(), is_manual=name.startswith(MANUALS), is_product=name.startswith("fastgw/"))
    if file.suffix in (".pyx", ".pxd"):
        return about_cython(file.read_text())
    if file.suffix in (".html", ".js", ".css"):
        return about_page(file.read_text(), MESSAGES)
    if file.suffix in (".md", ".yaml", ".toml", ".service", ".socket", ".sysusers"):
        return about_page(file.read_text(), PAGES)
    return iter(())


def files(arguments: Iterable[str]) -> Iterator[Path]:
    """Yield the files that are named, or those in the folders that are."""
    for each in map(Path, arguments):
        found = [each] if each.is_file() else sorted(each.rglob("*"))
        yield from (file.resolve() for file in found if not {*file.parts} & {"node_modules", "results"})


def main() -> int:
    """Print a line for each piece of advice, in the form `file:line: advice`."""
    asked = sys.argv[1:] or ("README.md", "fastgw", "bench", "docs", "deploy", "examples", "tests/support")
    found = [(file, line, each) for file in files(asked) for line, each in advice(file)]
    for file, line, each in found:
        print(f"{file.relative_to(ROOT)}:{line}: {each}")
    print(f"{len(found)} to look at" if found else "nothing to look at", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
