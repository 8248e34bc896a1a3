"""Fields that only some peers may send: found whatever their names' case and signs, and taken out of a head."""

from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.field_names import RESERVED
from fastgw.http.fields import folded
from fastgw.http.http1 import serializer
from fastgw.http.http1.parser import parse_request
from fastgw.http.http1.reserved_fields import ReservedFields
from tests.support.table import for_each

NAMES = tuple(name.lower().encode() for name in RESERVED)
ORDINARY = (
    b"Accept: */*\r\nAccept-Encoding: gzip\r\nAccept-Language: de\r\nCookie: a=b\r\nUser-Agent: x\r\nReferer: x\r\n"
    b"Sec-CH-UA-Platform: x\r\nSec-Fetch-Site: none\r\nX-Requested-With: x\r\nX-Request-Id: 1\r\nProxy-A: 1\r\n"
    b"X-Proxy: 1\r\nX-Clients: 1\r\nTrue-Client: 1\r\nSSL-Client: 1\r\nX-SSL: 1\r\nX_Forwarder: 1\r\n"
)
SENT = (
    b"Proxy",
    b"PROXY",
    b"X-Original-URL",
    b"x_original_url",
    b"X.Rewrite.URL",
    b"X-Forwarded_Path",
    b"true-client-ip",
    b"CF-Connecting-IP",
    b"X-Client-IP",
    b"X-Cluster-Client-IP",
    b"X-ARR-ClientCert",
    b"Client-Cert",
    b"SSL-Client-Verify",
    b"SSL_CLIENT_S_DN",
    b"ssl-client-",
    b"X-SSL-Client-Cert",
    b"X!SSL~Client~CN",
    b"X-Forwarded-Tls-Client-Cert-Info",
    b"X_Forwarded_Uri",
    b"Remote-User",
    b"X-Auth-Request-Email",
)


@for_each("name", SENT)
def test_a_reserved_field_is_gone_from_all_that_is_read_and_sent(name: bytes) -> None:
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + ORDINARY + name + b": evil\r\n\r\n")
    assert ReservedFields(NAMES).take_out_of(head) == (name,)
    assert head.first(name.lower()) is None
    assert head.values(name.lower()) == []
    assert b"evil" not in serializer.request(head)
    assert ORDINARY.removesuffix(b"\r\n").splitlines() == [
        b"%b: %b" % line for line in head.fields() if line[0] != b"Host"
    ]


def test_a_head_without_any_stays_as_it_came() -> None:
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + ORDINARY + b"\r\n")
    assert ReservedFields(NAMES).take_out_of(head) == ()
    assert ReservedFields(()).take_out_of(head) == ()
    assert head.edited() is None


def test_a_beginning_takes_no_field_that_has_rules_of_its_own() -> None:
    """The forwarding family is governed by `forwarded`, framing by nobody's choice."""
    lines = b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Secret: 1\r\nX-Request-Id: 1\r\n"
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")
    assert ReservedFields([b"x-*", b"h*"]).take_out_of(head) == (b"X-Forwarded-Secret",)
    assert head.first(b"x-forwarded-for") == b"1.2.3.4"
    assert head.first(b"host") == b"a"


def test_what_connection_names_away_is_away() -> None:
    lines = b"Connection: true-client-ip, x_client_ip\r\nTrue-Client-IP: 1\r\nX-Client-IP: 2\r\nX_Client_IP: 3\r\n"
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")
    assert ReservedFields(NAMES).take_out_of(head) == (b"X-Client-IP",)
    assert b"True" not in serializer.request(head)


def test_an_exempt_field_stays() -> None:
    lines = b"X-Own: 1\r\nX_Http_Method_Override: PUT\r\nX-Forwarded-Uri: /\r\nX-Forwarded-Url: /\r\n"
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")
    exempt = (b"X-Http-Method-Override", b"x-forwarded-uri")
    assert ReservedFields(NAMES, exempt).take_out_of(head) == (b"X-Forwarded-Url",)
    assert (head.first(b"x-forwarded-uri"), head.first(b"x_http_method_override")) == (b"/", b"PUT")


USUAL = (
    *(b"apikey", b"X-Api-Key", b"Authorization", b"Priority", b"Private-Token", b"Token", b"X-Amz-Date", b"If-Match"),
    *(b"X-Requested-With", b"X-Session-Id", b"X-Forwarded-For", b"X-Auth-Token", b"X-Trace-Id", b"From", b"Referer"),
)


@for_each("names", [*((name,) for name in USUAL), USUAL])
def test_usual_names_are_told_apart(names: tuple[bytes, ...]) -> None:
    """Some share a hash with a reserved name."""
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"%b: 1\r\n" % name for name in names) + b"\r\n")
    assert ReservedFields(NAMES).take_out_of(head) == ()
    assert head.edited() is None


SIGN = st.sampled_from("-!#$%&'*+.^_`|~")
NAME = st.text(st.sampled_from("abxX19") | SIGN, min_size=1, max_size=8).map(str.encode)
PATTERN = st.tuples(NAME.map(lambda name: name.replace(b"*", b"-").lower()), st.sampled_from([b"", b"*"])).map(b"".join)


@given(st.lists(PATTERN, max_size=3), st.lists(NAME, max_size=5))
def test_what_is_taken_out_is_what_is_called_so(patterns: list[bytes], names: list[bytes]) -> None:
    """The rule, said once more."""
    sent = b"".join(b"%b: 1\r\n" % name for name in names)
    expected = tuple(name for name in names if any(_is_meant(folded(name), each) for each in patterns))
    head = parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + sent + b"\r\n")
    assert ReservedFields(patterns).take_out_of(head) == expected
    assert all(ReservedFields(patterns).has(name) for name in expected)


def _is_meant(name: bytes, pattern: bytes) -> bool:
    wanted = folded(pattern.removesuffix(b"*"))
    return name.startswith(wanted) if pattern.endswith(b"*") else name == wanted
