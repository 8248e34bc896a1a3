"""Request paths and the files that they name."""

from fastgw.files.request_path import FilePath, file_path, looks_like_file
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize
from tests.support.table import for_each


@for_each(
    ("path", "prefix", "name", "is_folder"),
    [
        (b"/", b"", b"", True),
        (b"/a.txt", b"", b"a.txt", False),
        (b"/a/b/", b"", b"a/b", True),
        (b"/a%20b/%C3%BC", b"", b"a b/\xc3\xbc", False),
        (b"/100%25", b"", b"100%", False),
        (b"/a;b/c:d", b"", b"a;b/c:d", False),
        (b"/static/a", b"/static", b"a", False),
        (b"/static/", b"/static", b"", True),
        (b"/static", b"/static", b"", False),
        (b"/.well-known/security.txt", b"", b".well-known/security.txt", False),
        (b"/a..b/c.", b"", b"a..b/c.", False),
        (b"/" + b"a" * 255, b"", b"a" * 255, False),
    ],
)
def test_a_path_names_a_file(path: bytes, prefix: bytes, name: bytes, is_folder: bool) -> None:
    assert file_path(path, prefix) == FilePath(name, is_folder)


HOSTILE = [
    b"//a",
    b"/a//b",
    b"/a//",
    b"/a%2Fb",
    b"/a%2fb",
    b"/%2F",
    b"/%2Fetc/passwd",
    b"/.env",
    b"/.git/config",
    b"/a/.hidden/b",
    b"/a/.well-known/b",
    b"/.well-known/.secret",
    b"/%2Eenv",
    b"/..",
    b"/../a",
    b"/a/../../b",
    b"/%2e%2e/a",
    b"/..%2fa",
    b"/%252e%252e/a",
    b"/.%2e/a",
    b"/a/..;/b",
    b"/a\\..\\b",
    b"/%5C..%5Ca",
    b"/a%00.txt",
    b"/%c0%ae%c0%ae/a",
    b"/%c0%afetc",
    b"/" + b"a" * 256,
    b"/" + b"a/" * 2100 + b"a",
    b"*",
    b"",
]


@for_each("raw_path", HOSTILE)
def test_a_hostile_path_names_no_file_outside_and_none_that_is_hidden(raw_path: bytes) -> None:
    """Either the parser refuses it, or the file it names is visible and beneath the root."""
    try:
        path = normalize(raw_path)
    except Malformed:
        return
    named = file_path(path, b"")
    assert named is None or not any(each.startswith(b".") or not each for each in named.name.split(b"/"))


def test_an_escape_that_nothing_decodes_names_no_file() -> None:
    assert file_path(b"/a%2Fb", b"") is None
    for escape in (b"%00", b"%0A", b"%09", b"%7F", b"%5C"):
        assert file_path(b"/a%bb" % escape, b"") is None, escape
    assert file_path(b"/%2E%2E/a", b"") is None


def test_a_path_outside_the_prefix_names_none() -> None:
    assert file_path(b"/other/a", b"/static") is None
    assert file_path(b"/staticx", b"/static") is None


def test_a_page_is_no_answer_for_what_has_an_extension() -> None:
    assert not looks_like_file(b"users/7")
    assert not looks_like_file(b"v1.2/users")
    assert looks_like_file(b"assets/app.js")
