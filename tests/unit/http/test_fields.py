"""Fields: an ordered multimap that cannot be made to say more than was meant."""

import pytest

from fastgw.http.fields import Fields, twins_of

LINES = [(b"A", b"1"), (b"B", b"2"), (b"a", b"3")]


def test_names_compare_without_case_and_lines_keep_theirs():
    fields = Fields(LINES)
    assert fields.get(b"a") == b"1"
    assert fields.get_all(b"A") == [b"1", b"3"]
    assert (fields.get(b"c"), fields.get_all(b"c")) == (None, [])
    assert b"b" in fields
    assert b"c" not in fields
    assert "b" not in fields
    assert len(fields) == 3
    assert list(fields) == LINES
    assert not fields.changed


def test_set_takes_the_place_of_the_first_line():
    fields = Fields(LINES)
    fields.set(b"a", b"4")
    assert list(fields) == [(b"a", b"4"), (b"B", b"2")]
    assert fields.changed


def test_set_and_add_append_what_is_not_there():
    fields = Fields()
    fields.set(b"A", b"1")
    fields.add(b"A", b" 2\t")
    assert list(fields) == [(b"A", b"1"), (b"A", b"2")]
    assert fields.changed


def test_remove_takes_every_line_and_says_whether_anything_changed():
    fields = Fields(LINES)
    fields.remove(b"c")
    assert not fields.changed
    fields.remove(b"A")
    assert list(fields) == [(b"B", b"2")]
    assert fields.changed


@pytest.mark.parametrize("name", [b"X-User-Id", b"x_user_id", b"X-USER_ID"])
def test_set_and_remove_take_the_twins_that_cgi_would_not_tell_apart(name: bytes):
    """RFC 3875 section 4.1.18: `-` becomes `_` there."""
    lines = [(b"X_User-Id", b"1"), (b"A", b"2"), (b"x-user-id", b"3"), (b"XUser-Id", b"4")]
    fields = Fields(lines)
    fields.set(name, b"5")
    assert list(fields) == [(name, b"5"), (b"A", b"2"), (b"XUser-Id", b"4")]
    fields = Fields(lines)
    fields.remove(name)
    assert list(fields) == [(b"A", b"2"), (b"XUser-Id", b"4")]


def test_reading_takes_no_twin_for_the_field():
    fields = Fields([(b"X_User", b"1")])
    assert (fields.get(b"X-User"), fields.get_all(b"X-User"), b"X-User" in fields) == (None, [], False)


def test_render_leaves_out_what_is_dropped():
    assert Fields(LINES).render({b"a"}) == b"B: 2\r\n"
    assert Fields(LINES).render() == b"A: 1\r\nB: 2\r\na: 3\r\n"
    twins = Fields([(b"A-b", b"1"), (b"A_B", b"2"), (b"C", b"3")])
    assert twins.render({b"a-b"}) == b"A_B: 2\r\nC: 3\r\n"
    assert twins.render({b"c"}, alike={b"a-b"}) == b""


@pytest.mark.parametrize("name", [b"", b" ", b"a b", b"a:", b"a\r\n", b"a\n", b"\xe9", b"a\x00", b"(a)"])
def test_a_name_that_is_no_token_is_refused(name: bytes):
    fields = Fields(LINES)
    for change in (fields.set, fields.add):
        with pytest.raises(ValueError, match="is not a valid header name"):
            change(name, b"1")
    assert not fields.changed


@pytest.mark.parametrize("value", [b"a\r\nB: c", b"a\n", b"\r", b"a\x00", b"\x01", b"\x7f", b"a\x0b"])
def test_a_value_that_would_end_its_line_is_refused(value: bytes):
    fields = Fields(LINES)
    for change in (fields.set, fields.add):
        with pytest.raises(ValueError, match="control character"):
            change(b"A", value)
    with pytest.raises(ValueError, match="control character"):
        Fields([(b"A", value)])
    assert list(fields) == LINES


def test_a_repr_tells_names_and_no_values():
    assert repr(Fields([(b"Cookie", b"s3cret"), (b"A", b"b")])) == "<Fields Cookie, A>"


def test_twins_are_names_that_differ_in_punctuation_only():
    names = (b"x-api-key", b"x_api_key", b"key", b"x.token")
    pattern = twins_of(names)
    assert pattern is not None
    heads = {
        b"X-Api-Key": False,
        b"X_API_KEY": False,
        b"X.Token": False,
        b"Key": False,
        b"X-Api_Key": True,
        b"x.api.KEY": True,
        b"X-Token": True,
        b"X-Api-Keys": False,
        b"Y-X-Api_Key": False,
        b"XApiKey": False,
    }
    for name, is_twin in heads.items():
        for head in (
            b"GET / HTTP/1.1\r\n%b: v\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: v\r\n%b: v\r\n\r\n",
        ):
            assert (pattern.search(head % name) is not None) is is_twin, name
    assert pattern.search(b"GET / HTTP/1.1\r\nHost: X-Api_Key: v\r\n\r\n") is None
    assert twins_of((b"key",)) is None
