"""Multipart bodies: what is read, and what two readers could read in two ways."""

import pytest

from fastgw.http.multipart import InvalidMultipart, boundary_of, names_of, parts_of
from tests.support.table import for_each

FIELD = b'Content-Disposition: form-data; name="%b"'


def body(*parts: bytes) -> bytes:
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + b"--B--\r\n"


@pytest.mark.parametrize("content", [b"", b"x", b"\n", b"a\r\n\r\nb", b"-\n-B", b"x--B", b"\n -- B", b"\r\n--\r\nB"])
def test_the_content_of_a_part_may_be_anything_but_a_line_that_begins_with_the_boundary(content):
    head = FIELD % b"a"
    assert parts_of(body(head + b"\r\n\r\n" + content), b"B") == [
        ({b"content-disposition": b'form-data; name="a"'}, content)
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\n\n", b"\r\r", b"\n\r"])
def test_a_boundary_behind_another_line_end_is_a_part_to_some_readers_and_refused(end):
    hidden = b"x" + end + b"--B" + end + FIELD % b"admin" + end + end + b"true"
    with pytest.raises(InvalidMultipart, match="expected CR and LF before each boundary"):
        parts_of(body(FIELD % b"a" + b"\r\n\r\n" + hidden), b"B")
    with pytest.raises(InvalidMultipart, match="expected"):
        parts_of(end + body(FIELD % b"a" + b"\r\n\r\n" + b"x").replace(b"\r\n--B", end + b"--B", 1), b"B")


@pytest.mark.parametrize("end", [b"\n", b"\r"])
@pytest.mark.parametrize(
    "head", [b"X-A: 1%b" + FIELD % b"admin", FIELD % b"admin" + b"%bX-A: 1", b"X-A: 1%b x", b"X-A:%b1"]
)
def test_a_header_line_with_another_line_end_within_is_two_lines_to_some_readers_and_refused(head, end):
    with pytest.raises(InvalidMultipart, match="expected header lines that end with CR and LF"):
        parts_of(body(head.replace(b"%b", end) + b"\r\n" + FIELD % b"a" + b"\r\n\r\nx"), b"B")


@pytest.mark.parametrize(
    "files",
    [
        b"; filename*=utf-8''%C3%A9.txt",
        b"; FileName*=utf-8''a.txt; filename=a.txt",
        b'; filename="a.txt"; filename="b.txt"',
        b"; filename=a.txt; filename=a.txt",
    ],
)
def test_a_file_with_two_names_to_some_readers_is_refused(files):
    """RFC 7578 section 4.2 has no `filename*`."""
    with pytest.raises(InvalidMultipart, match="expected each part to have at most one filename"):
        names_of({b"content-disposition": b'form-data; name="a"' + files})


@pytest.mark.parametrize(("files", "name"), [(b"", None), (b'; filename=""', b""), (b"; FILENAME=a.txt", b"a.txt")])
def test_a_file_has_one_name(files, name):
    assert names_of({b"content-disposition": b'form-data; name="a"' + files}) == (b"a", name)


@pytest.mark.parametrize(
    "disposition",
    [
        b"name=\"a\"; name*=utf-8''b",
        b"name*=utf-8''b",
        b'name="a"; name*0="b"',
        b'name="a\\"; name=\\"b"',  # `b` to a reader without escapes
        b'name="a"; filename="x\\"; name=\\"b"',
        b'name="a"; filename="x; name=b"',
        b'name="a"; x="; filename=b"',
        b'name="a"; x="y\\" NAME =b"',
    ],
)
def test_a_part_with_another_name_to_some_readers_is_refused(disposition):
    with pytest.raises(InvalidMultipart, match="expected"):
        names_of({b"content-disposition": b"form-data; " + disposition})


def test_quotes_and_words_in_names_are_no_other_names():
    """As curl writes quotes, and as people name files."""
    assert names_of({b"content-disposition": b'form-data; name="my \\"name\\""; filename="name of \\"x\\".txt"'}) == (
        b'my "name"',
        b'name of "x".txt',
    )


@pytest.mark.parametrize(
    ("parameters", "boundary"),
    [
        (b"boundary=B", b"B"),
        (b' Boundary="a b:c" ; charset=utf-8', b"a b:c"),
        (b"charset=utf-8; boundary=----WebKitFormBoundaryx;", b"----WebKitFormBoundaryx"),
        (b'type="text/xml"; boundary="MIMEBoundary_1"; start="<a@boundary>"', b"MIMEBoundary_1"),
    ],
)
def test_the_boundary_is_a_parameter_of_the_content_type(parameters, boundary):
    assert boundary_of(b"multipart/form-data; " + parameters) == boundary


@for_each(
    "parameters",
    [
        *(b"", b"boundary", b"boundary=", b'boundary="a', b"boundary = a", b"boundary=a b", b"boundary=a; boundary=b"),
        *(b"boundary=a;boundary*=utf-8''b", b"boundary*0=b; boundary=a", b"boundary=a; boundary =b"),
        *(b'x="; boundary=a"; boundary=b', b"xboundary=a; boundary=b", b"x=boundary; boundary=b"),  # `a` to PHP
        *(b"boundary=a,b", b'boundary="a\\b"', b"boundary=\xe9", b"boundary=" + b"a" * 71),
    ],
)
def test_a_boundary_that_is_another_one_to_some_readers_is_refused(parameters):
    with pytest.raises(InvalidMultipart, match="expected a boundary"):
        boundary_of(b"multipart/form-data; " + parameters)
