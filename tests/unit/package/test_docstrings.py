"""Docstrings begin with a head: the first sentence names its subject, as a search for that subject would spell it.

"Of one upstream.", "Likewise." and "What is told of those that are silent." can be read by their author alone. The
rules here are few and dumb on purpose: each looks at the first words of a docstring, none tries to parse English.

Good: "Return the ...", "Whether the ...", "The address that ...", "Seconds until ...", "How many ...", "`name`: ...".
Held for every module, class, function and documented attribute or constant of the package. Later sentences may begin
with more words, but also name their subject, in the field's words.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
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

LATER: Final = re.compile(
    r"(?:What|Whatever|Who|Whom|Whose|Whoever|Those|Likewise|Ditto|Nor|Nobody|Somebody|Anybody)\b"
    r"|So (?:is|are|was|were|does|do|did|has|have|had|can|may|must|will)\b"
)
"""Beginnings of any later sentence that leave its subject out, or put it behind the verb."""

PRIVATE: Final = {
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
"""Phrases that docstrings and comments do not use, as regular expressions, and the standard term for each."""
ANY_PRIVATE: Final = re.compile("|".join(f"(?:{each})" for each in PRIVATE), re.IGNORECASE)
"""Most texts have none of them: one search says so in place of twenty."""

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


def later_sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a docstring after the first one, and those that begin a paragraph."""
    for paragraph in text.strip().split("\n\n"):
        yield from re.split(r"(?<=[.!?])[)\"'`]?\s+(?=[A-Z`])", " ".join(paragraph.split()))


def later_complaints(text: str) -> list[str]:
    """Return the beginnings and phrases of a docstring that have a standard form."""
    headless = [
        f"a sentence begins with {found[0]!r}" for each in later_sentences(text) if (found := LATER.match(each))
    ]
    return headless + private_words(text)


def private_words(text: str) -> list[str]:
    """Return the phrases of a text that have a standard term, with it; names in backticks may be any."""
    text = re.sub(r"`[^`]*`", "``", " ".join(text.split()))
    if not ANY_PRIVATE.search(text):
        return []
    return [f"{found[0]!r}: {term}" for each, term in PRIVATE.items() for found in re.finditer(each, text, re.I)]


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


@cache
def docstrings() -> tuple[Docstring, ...]:
    """Return every docstring of the package, which is parsed once."""
    return (*_read_docstrings(),)


def _read_docstrings() -> Iterator[Docstring]:
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        for text in docstrings_of(ast.parse(file.read_text())):
            yield Docstring(f"{name}:{text.lineno}", str(text.value))
    for file in sorted(PACKAGE.rglob("*.p[yx][xdi]")):  # Cython and stubs, which no parser at hand reads
        name, source = file.relative_to(PACKAGE).as_posix(), file.read_text()
        for found in OF_CYTHON.finditer(source):
            yield Docstring(f"{name}:{source.count(chr(10), 0, found.start()) + 1}", found[1])


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield the comments of a module, consecutive lines as one, each with the line at which it begins."""
    block: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if block and block[-1][0] + 1 != token.start[0]:
                yield block[0][0], " ".join(text for _, text in block)
                block = []
            block.append((token.start[0], token.string.lstrip("# ")))
    if block:
        yield block[0][0], " ".join(text for _, text in block)


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


BAD_LATER: Final = [
    "Return the pool. What is idle is closed.",
    "The first host.\n\nLikewise for ports.",
    "Return the pool (of HTTP/1.1.) Those of others are elsewhere.",
    "Whether it is open. So is a half-open one.",
    "Return the list, which nobody\nhas changed.",
    "The worker is told.",
]
GOOD_LATER: Final = [
    "Return the pool. Idle connections are closed.",
    "Return what was read. So the buffer is empty.",
    "Nothing is sent: what the client sends is kept.",
    "Return the context that `anew` has created.",
]


@pytest.mark.parametrize("text", BAD_LATER)
def test_a_later_sentence_without_a_subject_and_a_private_word_are_found(text: str) -> None:
    assert later_complaints(text)


@pytest.mark.parametrize("text", GOOD_LATER)
def test_a_later_sentence_with_a_subject_passes(text: str) -> None:
    assert later_complaints(text) == []


@pytest.mark.parametrize("term", PRIVATE.values())
def test_the_standard_term_is_not_a_private_word_itself(term: str) -> None:
    assert private_words(term) == []


def test_comments_of_several_lines_are_one_text() -> None:
    assert [*comments("# a\n# b\nx = 1  # c\n\n# d\n")] == [(1, "a b c"), (5, "d")]


def test_docstrings_of_modules_classes_functions_and_attributes_are_found() -> None:
    tree = ast.parse(
        '"""M."""\nX = 1\n"""X."""\nclass C:\n  """C."""\n  a: int\n  """A."""\n  def f(self):\n    """F."""\n'
    )
    assert {each.value for each in docstrings_of(tree)} == {"M.", "X.", "C.", "A.", "F."}


def test_every_docstring_of_the_package_names_its_subject() -> None:
    found = [(each.place, complaint(each.text), first_sentence(each.text)) for each in docstrings()]
    assert [f"{place}: {why}: {text!r}" for place, why, text in found if why] == []


def test_later_sentences_of_docstrings_are_in_the_words_of_the_field() -> None:
    found = [(each.place, later_complaints(each.text)) for each in docstrings()]
    assert [(place, why) for place, why in found if why] == []


def own_files(folder: Path) -> Iterator[Path]:
    """Yield the modules of a folder, without those of npm packages."""
    return (file for file in folder.rglob("*.py") if "node_modules" not in file.parts)


def test_docstrings_of_the_benchmark_and_of_the_tests_support_are_in_the_words_of_the_field() -> None:
    found = []
    for folder in ("bench", "tests/support"):
        for file in sorted(own_files(PACKAGE.parent / folder)):
            for each in docstrings_of(ast.parse(file.read_text())):
                found += [(f"{file.name}:{each.lineno}", why) for why in later_complaints(str(each.value))]
    assert found == []


def test_comments_are_in_the_words_of_the_field() -> None:
    found = []
    for folder in ("fastgw", "bench", "tests/support"):
        for file in sorted(own_files(PACKAGE.parent / folder)):
            for line, text in comments(file.read_text()):
                found += [(f"{file.name}:{line}", why) for why in private_words(text)]
    assert found == []
