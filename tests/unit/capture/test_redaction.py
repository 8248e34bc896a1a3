"""What a tap shows has no credentials, cookies or secret parameters in it."""

from __future__ import annotations

import gzip

import pytest

from fastgw.capture.redaction import Redaction, received_fields
from tests.support.table import for_each

JSON = [(b"Content-Type", b"application/json; charset=utf-8")]


@for_each(
    ("name", "value", "shown"),
    [
        (b"Authorization", b"Bearer abc.def", b"Bearer ***"),
        (b"authorization", b"abc", b"***"),
        (b"Proxy-Authorization", b"Basic eHh4", b"Basic ***"),
        (b"X-API-Key", b"k1", b"***"),
        (b"X-Own", b"k1", b"***"),
        (b"Cookie", b"a=b; c=d", b"a=***; c=***"),
        (b"Cookie", b"abc; =d; e; ", b"***; =***; ***; "),
        (b"Set-Cookie", b"sid=abc; Path=/; HttpOnly", b"sid=***; Path=/; HttpOnly"),
        (b"Set-Cookie", b"abc; Path=/; HttpOnly", b"***; Path=/; HttpOnly"),
        (b"Location", b"https://a.example/?code=s&x=1", b"https://a.example/?code=***&x=1"),
        (b"Accept", b"*/*", b"*/*"),
        (b"X-Vault-Token", b"k1", b"***"),
        (b"Private-Token", b"k1", b"***"),
        (b"X-Goog-Api-Key", b"k1", b"***"),
        (b"Access-Control-Allow-Credentials", b"true", b"true"),
        (b"X-Tokens-Left", b"5", b"5"),
    ],
)
def test_headers_with_secrets_are_masked(name: bytes, value: bytes, shown: bytes) -> None:
    assert Redaction(["X-Own"]).fields([(name, value)]) == [(name, shown)]


@for_each(
    ("kind", "body", "shown"),
    [
        (b"application/json", b'{"password": "x\\"y", "a": 1}', b'{"password": "***", "a": 1}'),
        (b"application/json", b'{"token":12345,"b":[1]}', b'{"token":"***","b":[1]}'),
        (b"application/json", b'{"secret":{"a":"b"}}', b'{"secret":"***"}'),
        (b"application/json", b'{"api_key":"cut of', b'{"api_key":"***"'),
        (b"application/json", b'{"got":"{\\"password\\":\\"x\\"}"}', b'{"got":"{\\"password\\":***}"}'),
        (b"text/plain", b"a password=x&name=y", b"a password=***&name=y"),
        (b"application/x-www-form-urlencoded", b"client_secret=x&name=y", b"client_secret=***&name=y"),
        (b"application/xml", b"<a><password>x</password><b>y</b></a>", b"<a><password>***</password><b>y</b></a>"),
        (
            b"multipart/form-data; boundary=B",
            b'--B\r\nContent-Disposition: form-data; name="password"\r\n\r\nx\ny\r\n--B--',
            b'--B\r\nContent-Disposition: form-data; name="password"\r\n\r\n***\r\n--B--',
        ),
        (b"application/json", b'{"name":"a","n":1}', b'{"name":"a","n":1}'),
    ],
)
def test_bodies_are_shown_without_the_values_of_secrets(kind: bytes, body: bytes, shown: bytes) -> None:
    assert Redaction().body([(b"content-type", kind)], body, 65536) == (shown, "", False)


def _shown(kind: bytes, body: bytes) -> bytes:
    return Redaction(["iban"]).body([(b"Content-Type", kind)], body, 65536).content


@for_each(
    ("body", "shown"),
    [
        (b'{"user":{"password":"S"}}', b'{"user":{"password":"***"}}'),
        (b'[{"a":[{"b":{"iban":"S"}}]}]', b'[{"a":[{"b":{"iban":"***"}}]}]'),
        (b'{"token":[["S"],"S"],"a":1}', b'{"token":"***","a":1}'),
        (b'{"token":{"a":{"b":"}S"},"c":["]S"]},"d":1}', b'{"token":"***","d":1}'),
        (b'{"token":{"a":"S', b'{"token":"***"'),
        (b'{"pass\\u0077ord":"S"}', b'{"pass\\u0077ord":"***"}'),
        (b'{"a":",","newPassword":"S","tokens_used":5}', b'{"a":",","newPassword":"***","tokens_used":5}'),
        (b'{"a":"x",":":"y","password":":S"}', b'{"a":"x",":":"y","password":"***"}'),
        (
            b'{"userPwd":"S","saml_assertion":"S","assertions":2}',
            b'{"userPwd":"***","saml_assertion":"***","assertions":2}',
        ),
        (
            b'{"author":"x","auth_type":1,"session_count":2,"primary_key":3}',
            b'{"author":"x","auth_type":1,"session_count":2,"primary_key":3}',
        ),
        (
            b'{"X-Session":"S","x-functions-key":"S","Idempotency-Key":"x"}',
            b'{"X-Session":"***","x-functions-key":"***","Idempotency-Key":"x"}',
        ),
        (b'{"headers":{"Cookie":"a=S","X-Vault-Token":"S"}}', b'{"headers":{"Cookie":"***","X-Vault-Token":"***"}}'),
        (b'{"a":"https://u:S@h.example/"}', b'{"a":"https://***@h.example/"}'),
        (b'{"a":"https://u:S@S@h.example/@b"}', b'{"a":"https://***@h.example/@b"}'),
        (b'{"a":"https:\\/\\/u:S@h\\/"}', b'{"a":"https:\\/\\/***@h\\/"}'),
        (b'{"a":"{\\"b\\":\\"https:\\\\/\\\\/u:S@h\\"}"}', b'{"a":"{\\"b\\":\\"https:\\\\/\\\\/***@h\\"}"}'),
        (b'{"a":"https:\\u002F\\u002fu:S@h"}', b'{"a":"https:\\u002F\\u002f***@h"}'),
        (b'{"a":":\\\\b@c","d":"12:/5@6"}', b'{"a":":\\\\b@c","d":"12:/5@6"}'),
        (b'{"a":"{\\"token\\":[\\"S\\"]}","b":1}', b'{"a":"{\\"token\\":***}","b":1}'),
        (b'{"a":"{\\"token\\":[\\"S","b":1}', b'{"a":"{\\"token\\":***","b":1}'),
        (b'{"a":"{\\"token\\":\\"x\\\\\\"S\\"}"}', b'{"a":"{\\"token\\":***}"}'),
        (b'{"query":"{ login(password: \\"S\\", a: 1) }"}', b'{"query":"{ login(password: \\"***\\", a: 1) }"}'),
        (b'{"a":"status code: 500","b":"my key: x"}', b'{"a":"status code: 500","b":"my key: x"}'),
    ],
)
def test_secrets_nested_in_json_are_not_shown(body: bytes, shown: bytes) -> None:
    assert _shown(b"application/json", body) == shown


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'<u password="S" a="b"/>', b'<u password="***" a="b"/>'),
        (b"<u a='b' password = 'S'>c</u>", b"<u a='b' password = '***'>c</u>"),
        (b"<password><![CDATA[<S>]]></password><b/>", b"<password>***</password><b/>"),
        (b"<n:secret><v>S</v><n:secret>S</n:secret>S</n:secret><b/>", b"<n:secret>***</n:secret><b/>"),
        (b'<secret v="S"/><b>c</b>', b"<secret ***/><b>c</b>"),
        (b"<a><secret>S", b"<a><secret>***"),
    ],
)
def test_secrets_in_xml_are_not_shown(body: bytes, shown: bytes) -> None:
    assert _shown(b"text/xml", body) == shown


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        (b"application/yaml", b"a: b\npassword: S S # S\nc: d\n", b"a: b\npassword: ***\nc: d\n"),
        (b"application/yaml", b"a:\n  secret: |\n    S\n\n    S\n  c: d\n", b"a:\n  secret: ***\n  c: d\n"),
        (b"application/yaml", b"secret:\n  a: S\nc: d", b"secret: ***\nc: d".replace(b": *", b":*")),
        (b"text/plain", b"Authorization: Bearer S\r\nA: b", b"Authorization: ***\r\nA: b"),
        (b"text/plain", b"{'token': 'S', 'a': 1}", b"{'token': '***', 'a': 1}"),
        (b"text/plain", b'5" of password = "S" and', b'5" of password = "***" and'),
    ],
)
def test_secrets_in_other_texts_are_not_shown(kind: bytes, body: bytes, shown: bytes) -> None:
    assert _shown(kind, body) == shown


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b"newPassword=S&a=b&user[password]=S", b"newPassword=***&a=b&user[password]=***"),
        (b"pass%77ord=S&user%5Bnew_password%5D=S&a=b", b"pass%77ord=***&user%5Bnew_password%5D=***&a=b"),
        (b'password=a"S&b=c', b"password=***&b=c"),
        (b"cookie=S&code=S&iban=S&a=%20b", b"cookie=***&code=***&iban=***&a=%20b"),
        (b"payload=%7B%22api_key%22%3A%22S%22%7D&a=b", b"payload=***&a=b"),
        (b"url=https%253A%252F%252Fu%253AS%2540h.example", b"url=***"),
        (b"a" * 129 + b"=S&a=b", b"a" * 129 + b"=***&a=b"),
        (b'{"password":"S&=S","a":1}', b'{"password":"***","a":1}'),
        (b"a&b=&=c", b"a&b=&=c"),
    ],
)
def test_secrets_in_forms_are_not_shown(body: bytes, shown: bytes) -> None:
    assert _shown(b"application/x-www-form-urlencoded", body) == shown


UTF16 = '{"password":"S"}'.encode("utf-16-le")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"application/json", UTF16),
        (b"application/json; charset=utf-16", UTF16),
        (b"", UTF16),
        (b"text/plain; charset=UTF-7", b"+AHAAYQBzAHMAdwBvAHIAZA-=S"),
        (b"application/x-www-form-urlencoded", "password=S".encode("utf-16")),
        (b"application/xml", "<password>S</password>".encode("utf-32")),
        (b"application/xml", b"<?xml version='1.0' encoding='cp037'?><\x97\x81>S"),
    ],
)
def test_texts_without_ascii_are_left_out(kind: bytes, body: bytes) -> None:
    """Names of secrets are not found in them."""
    assert Redaction().body([(b"Content-Type", kind)], body, 65536) == (b"", "character encoding", False)


@pytest.mark.parametrize("charset", [b"UTF-8", b'"utf8"', b"iso-8859-15", b"windows-1252", b"US-ASCII"])
def test_texts_that_contain_ascii_are_shown(charset: bytes) -> None:
    assert _shown(b"text/plain; charset=" + charset, b"password=S&a=b") == b"password=***&a=b"


@pytest.mark.parametrize(
    ("head", "content", "shown"),
    [
        (b"name=a\r\nContent-Type: text/plain", b"b", b"b"),
        (b"name=a; filename=b\r\nContent-Type: image/png", b"\x89PNG\0", b"***"),
        (b"name=a\r\ncontent-type: text/plain; charset=utf-7", b"S", b"***"),
        (b"name=a\r\nContent-Transfer-Encoding: base64", b"S", b"***"),
        (b"name=a\r\nContent-Transfer-Encoding: 8bit", b"b", b"b"),
    ],
)
def test_parts_of_a_form_that_cannot_be_read_are_hidden(head: bytes, content: bytes, shown: bytes) -> None:
    form = b"--B\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n--B--\r\n"
    assert _shown(b"multipart/form-data; boundary=B", form % (head, content)) == form % (head, shown)


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        (b"--B\nContent-Disposition: form-data; name=password\n\nS\n--B--\n", b"--B***"),
        (b"--B \r\nContent-Disposition: form-data; name=password\r\n\r\nS\r\n--B--", b"--B***\r\n--B--"),
        (b"--A\r\nContent-Disposition: form-data; name=password\r\n\r\nS\r\n--A--", b""),
        (b"password=S\r\n--B--\r\npassword=S", b"password=***\r\n--B--\r\npassword=***"),
    ],
)
def test_forms_that_others_may_split_elsewhere_show_no_secrets(form: bytes, shown: bytes) -> None:
    assert _shown(b"multipart/form-data; boundary=B", form) == shown


def test_parts_of_a_form_are_read_up_to_its_boundary() -> None:
    """A PEM begins with `--`, and a part may be a document of its own."""
    form = (
        b'--B\r\nContent-Disposition: form-data; filename="a"; name="private_key"\r\n\r\n'
        b"-----BEGIN\r\n--S\r\n--B\r\n"
        b"Content-Disposition: form-data; name=a\r\nContent-Type: application/json\r\n\r\n"
        b'{"b":{"token":"S"}}\r\n--B--\r\n'
    )
    shown = _shown(b"multipart/form-data; boundary=B", form)
    assert b"S" not in shown
    assert shown.startswith(
        b'--B\r\nContent-Disposition: form-data; filename="a"; name="private_key"\r\n\r\n***\r\n--B\r\n'
    )
    assert shown.endswith(b'\r\n\r\n{"b":{"token":"***"}}\r\n--B--\r\n')
    unbounded = Redaction().body([(b"Content-Type", b"multipart/form-data")], form, 65536)
    assert unbounded == (b"", "type multipart/form-data", False)


def test_a_compressed_body_is_read_up_to_what_is_shown() -> None:
    packed = gzip.compress(b'{"a":1}' * 100000)
    body = Redaction().body([*JSON, (b"Content-Encoding", b"gzip")], packed, 1024)
    assert (len(body.content), body.is_cut) == (1024, True)


@for_each(
    "piece",
    [b'"', b"\\", b'\\"', b"{",
     b'"token":[', b"<secret>", b"<secret></secret>", b"a=", b"://", b":\\/\\/a@", b":\\", b"a: ", b'\\"token\\":\\"',
     b"password: |\n", b"a=%2522&", b"%25", b"'", b'"a":', b'"token":"\\', b" ", b'<a b="'],
)  # fmt: skip
@for_each("kind", [b"text/plain", b"application/x-www-form-urlencoded"])
def test_a_hostile_text_is_read_in_few_steps(piece: bytes, kind: bytes) -> None:
    """Each byte is read a limited number of times: a text of 16 KiB is done at once, whatever it consists of."""
    text = piece * (16384 // len(piece))
    assert len(_shown(kind, text)) <= 2 * len(text) + 16


def test_a_compressed_body_is_read_first_and_one_that_cannot_be_read_is_left_out() -> None:
    packed = gzip.compress(b'{"password":"x"}' * 10)
    gzipped = [*JSON, (b"Content-Encoding", b"gzip")]
    assert Redaction().body(gzipped, packed, 65536) == (b'{"password":"***"}' * 10, "", False)
    assert b"x" not in Redaction().body(gzipped, packed[:-9], 65536).content
    assert Redaction().body(gzipped, b"no gzip", 65536) == (b"", "content coding gzip", False)
    assert Redaction().body([*JSON, (b"Content-Encoding", b"br")], packed, 65536) == (b"", "content coding br", False)
    twice = [*gzipped, (b"Content-Encoding", b"identity")]
    assert Redaction().body(twice, packed, 65536) == (b"", "content coding gzip, identity", False)
    assert Redaction().body([(b"Content-Type", b"image/png")], b"\x89PNG", 65536) == (b"", "type image/png", False)
    assert Redaction().body([], b"\x00", 65536) == (b"", "type unknown", False)
    assert Redaction().body([], b"", 65536) == (b"", "", False)


def test_names_of_the_configuration_are_secrets_as_well() -> None:
    assert Redaction(["ticket"]).body(JSON, b'{"ticket":"x","a":"y"}', 65536).content == b'{"ticket":"***","a":"y"}'
    assert Redaction(["ticket"]).query(b"ticket=x&a=y") == b"ticket=***&a=y"
    assert Redaction(["ticket"]).path(b"/a;ticket=x") == b"/a;ticket=***"


def test_the_fields_of_a_head_are_those_that_were_received() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: 1 \r\nx:2\r\n\r\n"
    assert received_fields(head) == [(b"Host", b"a"), (b"X", b"1"), (b"x", b"2")]
