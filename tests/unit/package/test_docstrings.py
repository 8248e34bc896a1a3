"""Docstrings begin with a head: the first sentence names its subject, as a search for that subject would spell it.

"Of one upstream.", "Likewise." and "What is told of those that are silent." can be read by their author alone. The
rules here are few and dumb on purpose: each looks at the first words of a docstring, none tries to parse English.

Good: "Return the ...", "Whether the ...", "The address that ...", "Seconds until ...", "How many ...", "`name`: ...".
Held for every module, class, function and documented attribute or constant of the package.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

PACKAGE: Final = Path(__file__).parents[3] / "fastgw"

HEADLESS: Final = {
    "relative clause without the noun that it belongs to": "What Whatever Who Whom Whose Which Where Why How That",
    "pronoun without antecedent": "It Its They Their Them He His Those These",
    "preposition without the subject before it": (
        "Of As In By From To For With Without Within Until After At Beside Among Behind Before"
    ),
    "adverb or participle without the subject before it": "So Such Also Told Stands Goes",
    "indefinite pronoun in the place of a name": "Somebody Someone Something Nobody Nothing Anybody Anything Somewhere",
    "conjunction without the first half": "And But Or",
    "reference to a neighbour": "Likewise Ditto There",
}
"""The words that no docstring begins with, by the reason why."""

REASONS: Final = {word: reason for reason, words in HEADLESS.items() for word in words.split()}

ALLOWED: Final = re.compile(
    r"How (?:many|much|long|often|far|large|deep|old|late|soon|near)\b"  # a quantity has a name: its question
    r"|To be \w+ed\b"
    r"|(?:For|With|At|Within)(?: an?| the)? [`\w.]+(?: [`\w]+)?:"  # a label
    r"|In-|By-|As-|So-"
)
"""Beginnings that look headless and are not."""

LOWER_CASE: Final = re.compile(
    r"[\w-]+(?:, [\w-]+)*(?: and [\w-]+)?(?:\(\d\))?:"  # a name and a colon
    r"|b\"|null\b|\w*[A-Z_./]|(?:asyncio|htpasswd|llhttp|tomllib|uvicorn|fastgw)\b"
)
"""Names that are written in lower case, also where a sentence begins with them."""

ELLIPTICAL: Final = re.compile(
    r"The same(?:[.:;,]| as| for| of| in| but| with)|One of (?:them|those|these)\b"
    r"|(?:This|That) (?:is|was|has|does|may|can|must|will|alone)\b"
)
"""Two words and more that stand for a noun and do not say which."""

OF_CYTHON: Final = re.compile(r'^[ \t]*"""(?!\n)(.*?)"""', re.MULTILINE | re.DOTALL)
"""Docstrings of a Cython module, each at the start of a line. C code begins with a line end and is none."""


def first_sentence(text: str) -> str:
    """Return the text up to its first full stop or colon that ends a word, else the first paragraph."""
    paragraph = text.strip().partition("\n\n")[0]
    found = re.match(r"(?:`[^`]*`|.)*?[.:!?][)\"'`]?(?=\s|$)", paragraph, re.DOTALL)
    return found[0] if found else paragraph


def complaint(text: str) -> str | None:
    """Return what is wrong with the beginning of a docstring, or None."""
    sentence = first_sentence(text)
    word = re.match(r"[\w'-]*", sentence)[0]  # type: ignore[index]  # matches the empty string too
    if word in REASONS and not ALLOWED.match(sentence):
        return f"begins with {word!r}: a {REASONS[word]}"
    if ELLIPTICAL.match(sentence):
        return "begins with words that stand for a noun and do not say which"
    if len(text.split()) < 2:
        return "is a single word"
    if word[:1].islower() and not LOWER_CASE.match(sentence):
        return "begins with a small letter, and not with a name and a colon"
    if not re.search(r"[.:!?][)\"'`]?$", sentence):
        return "has a first sentence without a full stop or colon"
    return None


class Docstring(NamedTuple):
    """Documentation of one name of the package."""

    place: str
    """The file relative to the package, and the line."""
    text: str


def docstrings_of(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the docstrings of a module, its classes, functions, attributes and constants."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        before: ast.stmt | None = None
        for index, statement in enumerate(node.body):
            match statement:
                case ast.Expr(value=ast.Constant(value=str()) as text):
                    if index == 0 or isinstance(before, ast.Assign | ast.AnnAssign):
                        yield text
            before = statement


def docstrings() -> Iterator[Docstring]:
    """Yield every docstring of the package."""
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        for text in docstrings_of(ast.parse(file.read_text())):
            yield Docstring(f"{name}:{text.lineno}", str(text.value))
    for file in sorted(PACKAGE.rglob("*.p[yx][xdi]")):  # Cython and stubs, which no parser at hand reads
        name, source = file.relative_to(PACKAGE).as_posix(), file.read_text()
        for found in OF_CYTHON.finditer(source):
            yield Docstring(f"{name}:{source.count(chr(10), 0, found.start()) + 1}", found[1])


BAD: Final = [
    "Of one upstream.",
    "Likewise.",
    "Likewise: of the route.",
    "The same.",
    "The same, for a listener.",
    "One of them.",
    "What is told of those that are silent.",
    "Whose it is.",
    "Which of the files keep what is in force of them.",
    "Where a filter stands of which something is known.",
    "How it is noticed that a target is in trouble.",
    "As of now.",
    "It goes to another upstream: take back what was for the first.",
    "That is what the worker does.",
    "This is what the worker does.",
    "There are at most two.",
    "By name.",
    "From the configuration.",
    "Heartbeat.",
    "Somebody wants the end now.",
    "For the next request on a connection.",
    "So many files are open.",
    "the heartbeat of a worker.",
    "Heartbeat of a worker",
]
GOOD: Final = [
    "Return the heartbeat of a worker.",
    "Whether the worker is silent.",
    "Worker heartbeat: written by each worker, read by the supervisor.",
    "Seconds until the next attempt.",
    "How many requests are in flight. 0: none.",
    "The address that the listener is bound to.",
    "`name`: the label in metrics.",
    "rate-limit: refuse requests above a rate.",
    "This process is the supervisor.",
    "For `basic`: the password.",
    "The same key for all workers of a node.",
    "In-flight requests.",
    'Send "Connection: close".',
    "Wait until the lock (flock(2), e.g. of the state directory)\nis free.",
]


@pytest.mark.parametrize("text", BAD)
def test_a_headless_sentence_is_found(text: str) -> None:
    assert complaint(text)


@pytest.mark.parametrize("text", GOOD)
def test_a_sentence_with_a_subject_passes(text: str) -> None:
    assert complaint(text) is None


def test_docstrings_of_modules_classes_functions_and_attributes_are_found() -> None:
    tree = ast.parse(
        '"""M."""\nX = 1\n"""X."""\nclass C:\n  """C."""\n  a: int\n  """A."""\n  def f(self):\n    """F."""\n'
    )
    assert {each.value for each in docstrings_of(tree)} == {"M.", "X.", "C.", "A.", "F."}


def test_every_docstring_of_the_package_names_its_subject() -> None:
    found = [(each.place, complaint(each.text), first_sentence(each.text)) for each in docstrings()]
    assert [f"{place}: {why}: {text!r}" for place, why, text in found if why] == []
