"""Who the client is, and what is said of it, whatever was written into the forwarding fields on the way."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.config.base.value_types import parse_network
from fastgw.forwarded_headers import (
    FAMILY,
    MOST_REMEMBERED_BYTES,
    Peer,
    _elements,
    _remembered_lines,
    _remembered_origin,
    client_address,
    client_authority,
    client_scheme,
    fields_for_upstream,
)
from fastgw.gateway.compiler import trust
from fastgw.http.grammar import TOKEN
from fastgw.http.http1.parser import parse_request
from fastgw.http.messages import RequestHead
from tests.support.table import for_each

TRUSTS = trust([parse_network("10.0.0.0/8"), parse_network("fd00::/8")])
PROXY = Peer("10.0.0.9", 1, 80, trusted=True)
STRANGER = Peer("203.0.113.5", 1, 80, trusted=False)


def head(*fields: bytes) -> RequestHead:
    return parse_request(b"GET / HTTP/1.1\r\nHost: a.test\r\n" + b"".join(each + b"\r\n" for each in fields) + b"\r\n")


def client(*fields: bytes) -> str:
    return client_address(head(*fields), PROXY, TRUSTS)


def added(policy: str | None, peer: Peer, *fields: bytes) -> dict[bytes, bytes]:
    request = head(*fields)
    ip = client_address(request, peer, TRUSTS)
    dropped, lines = fields_for_upstream(policy, peer, request, ip, writes_forwarded=True)  # type: ignore[arg-type]
    assert dropped in (FAMILY, frozenset())
    return dict(line.split(b": ", 1) for line in lines.split(b"\r\n") if line)


@for_each(
    ("fields", "found"),
    [
        ([], "10.0.0.9"),
        ([b"X-Forwarded-For: 198.51.100.1"], "198.51.100.1"),
        ([b"X-Forwarded-For: 6.6.6.6, 198.51.100.1, 10.0.0.1"], "198.51.100.1"),
        ([b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-For: 198.51.100.1"], "198.51.100.1"),
        ([b"X-Forwarded-For: 10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        ([b"X-Forwarded-For: 6.6.6.6, unknown, 10.0.0.1"], "10.0.0.1"),
        # empty members are none (RFC 9110 section 5.6.1.2), wherever they stand; so many at most between others
        ([b"X-Forwarded-For: 198.51.100.1,"], "198.51.100.1"),
        ([b"X-Forwarded-For: 198.51.100.1, , 10.0.0.1"], "198.51.100.1"),
        ([b"X-Forwarded-For: , 198.51.100.1 ,\t, ,10.0.0.1, ,"], "198.51.100.1"),
        ([b"X-Forwarded-For: 198.51.100.1", b"X-Forwarded-For: ,", b"X-Forwarded-For: 10.0.0.1"], "198.51.100.1"),
        ([b"X-Forwarded-For: 198.51.100.1" + b"," * 9000], "198.51.100.1"),
        ([b"X-Forwarded-For: 198.51.100.1" + b"," * 30 + b"10.0.0.1"], "198.51.100.1"),
        ([b"X-Forwarded-For: 198.51.100.1" + b"," * 32 + b"10.0.0.1"], "10.0.0.1"),
        ([b"X-Forwarded-For: 6.6.6.6, unknown,, 10.0.0.1,"], "10.0.0.1"),
        ([b"X-Forwarded-For: 6.6.6.6,,,, 198.51.100.1, 10.0.0.1"], "198.51.100.1"),
        ([b"X-Forwarded-For: ,"], "10.0.0.9"),
        ([b"X-Forwarded-For: , ,", b"Forwarded: for=198.51.100.1"], "198.51.100.1"),
        ([b"Forwarded: for=198.51.100.1,"], "198.51.100.1"),
        ([b"Forwarded: for=198.51.100.1,,for=10.0.0.1"], "198.51.100.1"),
        ([b"Forwarded: , for=198.51.100.1 ,\t, for=10.0.0.1, ,"], "198.51.100.1"),
        ([b"Forwarded: for=198.51.100.1" + b"," * 4000 + b"for=10.0.0.1"], "198.51.100.1"),
        ([b"Forwarded: for=198.51.100.1" + b"," * 4096 + b"for=10.0.0.1"], "10.0.0.1"),
        ([b"Forwarded: for=6.6.6.6, for=_hidden,, for=10.0.0.1,"], "10.0.0.1"),
        ([b'Forwarded: for="6.6.6.6,,, for=198.51.100.1,'], "198.51.100.1"),
        ([b"Forwarded: ,"], "10.0.0.9"),
        ([b"X-Forwarded-For: 010.1.1.1"], "10.0.0.9"),
        ([b"X-Forwarded-For: 2001:DB8::1"], "2001:db8::1"),
        ([b"X-Forwarded-For: [2001:db8::1]:80"], "2001:db8::1"),
        ([b"X-Forwarded-For: fe80::1%eth0"], "10.0.0.9"),
        ([b'X-Forwarded-For: fe80::1%"><script>'], "10.0.0.9"),
        ([b"X-Forwarded-For: 6.6.6.6, ::ffff:10.0.0.1"], "6.6.6.6"),
        ([b"X-Forwarded-For: ::ffff:198.51.100.1"], "198.51.100.1"),
        ([b"Forwarded: for=198.51.100.1"], "198.51.100.1"),
        ([b"Forwarded: for=198.51.100.1:4711;proto=https"], "198.51.100.1"),
        ([b'forwarded: proto=https; FOR="[2001:db8::1]:80"'], "2001:db8::1"),
        ([b"Forwarded: for=6.6.6.6, for=198.51.100.1, for=10.0.0.1"], "198.51.100.1"),
        ([b"Forwarded: for=6.6.6.6", b"Forwarded: for=198.51.100.1;by=10.0.0.9"], "198.51.100.1"),
        # what the client put between quotes by a proxy is no element of its own
        ([b'Forwarded: for=198.51.100.1;host="a, for=6.6.6.6"'], "198.51.100.1"),
        ([b'Forwarded: for=198.51.100.1;host="a;for=6.6.6.6"'], "198.51.100.1"),
        ([b'Forwarded: host="a;for=6.6.6.6";for=198.51.100.1'], "198.51.100.1"),
        ([b'Forwarded: for=198.51.100.1;host="a\\", for=6.6.6.6"'], "198.51.100.1"),
        # nor does a quote that the client left open hide what the proxy wrote behind it
        ([b'Forwarded: for="6.6.6.6, for=198.51.100.1'], "198.51.100.1"),
        ([b'Forwarded: for="x\\, for="[2001:db8::1]"'], "2001:db8::1"),
        # an element that does not say for whom ends the search: what is left of it came from there
        ([b"Forwarded: for=6.6.6.6, proto=https"], "10.0.0.9"),
        ([b"Forwarded: for=6.6.6.6, for=_hidden, for=10.0.0.1"], "10.0.0.1"),
        ([b"Forwarded: nonsense"], "10.0.0.9"),
    ],
)
def test_the_client_is_the_rightmost_address_that_no_trusted_proxy_has(fields: list[bytes], found: str) -> None:
    assert client(*fields) == found


def test_a_stranger_is_its_own_client() -> None:
    assert client_address(head(b"X-Forwarded-For: 6.6.6.6"), STRANGER, TRUSTS) == "203.0.113.5"


@pytest.mark.parametrize("peer", [PROXY, STRANGER, Peer("unix:", 0, 0, trusted=True)])
def test_to_append_to_nothing_is_to_say_what_we_see(peer: Peer) -> None:
    assert added("append", peer) == added("set", peer)
    assert added("append", peer, b"X-Real-IP: 6.6.6.6") == added("set", peer)


def test_what_a_filter_says_of_where_the_client_came_counts_too() -> None:
    request = head()
    request.fields().add(b"X-Forwarded-Proto", b"https")
    _, lines = fields_for_upstream("append", PROXY, request, "10.0.0.9")
    assert b"X-Forwarded-Proto: https\r\n" in lines


@pytest.mark.parametrize(
    ("peer", "fields", "sent"),
    [
        (STRANGER, b"", b""),
        (PROXY, b"X-Forwarded-Proto: https\r\n", b"for=6.6.6.6, "),
        (PROXY, b"X-Forwarded-For: 198.51.100.1\r\n", b"for=198.51.100.1, "),
    ],
)
def test_of_an_earlier_forwarded_the_addresses_are_kept(peer: Peer, fields: bytes, sent: bytes) -> None:
    """Its other parameters may have been chosen by a client, also behind a proxy that writes `X-Forwarded-*` only; and
    services that read the first `proto`, as Spring does, must find the one that others find in the last element.
    """
    raw = b"GET / HTTP/1.1\r\nHost: a.test\r\nForwarded: for=6.6.6.6;host=evil;proto=https\r\n" + fields + b"\r\n"
    _, lines = fields_for_upstream("append", peer, parse_request(raw), "198.51.100.1", writes_forwarded=True)
    scheme = b"https" if peer.trusted else b"http"
    assert b'\r\nForwarded: %bfor=%b;host="a.test";proto=%b\r\n' % (sent, peer.ip.encode(), scheme) in lines
    assert b"evil" not in lines
    assert (b"X-Forwarded-Proto: https\r\n" in lines) is peer.trusted


@pytest.mark.parametrize("count", [10_000])
def test_a_long_list_is_read_in_no_time(count: int) -> None:
    """However many elements a client invents, only those that trusted proxies wrote are looked at."""
    value = b", ".join([b"for=10.0.0.1"] * count)
    raw = b"GET / HTTP/1.1\r\nHost: a.test\r\nForwarded: " + value + b'x="\r\n\r\n'
    request = parse_request(raw)
    assert client_address(request, PROXY, TRUSTS) == "10.0.0.9"
    fields_for_upstream("append", PROXY, request, "10.0.0.9")


def test_of_a_long_list_the_end_is_read() -> None:
    """A proxy's element stands at the end. What begins too far from there is not looked at, as if it were malformed."""
    near, far = b'for=10.0.0.1;by="' + b"," * 2000 + b'"', b'for=10.0.0.1;by="' + b"," * 5000 + b'"'
    assert client(b"Forwarded: for=198.51.100.1, " + near) == "198.51.100.1"
    assert client(b"Forwarded: for=198.51.100.1, " + far) == "10.0.0.9"
    assert client(b"Forwarded: " + far + b", for=198.51.100.1") == "198.51.100.1"
    lines = added("append", PROXY, b"Forwarded: " + far + b", for=198.51.100.1")
    assert lines[b"Forwarded"] == b'for=198.51.100.1, for=10.0.0.9;host="a.test";proto=http'


def test_no_part_of_an_element_is_taken_for_one() -> None:
    """Wherever the part that is read begins: in a name, in a value, behind a comma between quotes."""
    element = b'x="' + b"y" * 4064 + b", for=6.6.6.6, for="
    for more in range(40):
        assert client(b"Forwarded: " + element + b"z" * more + b'"') == "10.0.0.9"
        assert client(b"Forwarded: " + b"y" * (4084 + more) + b"for=6.6.6.6") == "10.0.0.9"


PAIR = TOKEN + rb'++=(?:"(?>(?:[^"\\]|\\.)*)"|[^\s",;]++)'
ELEMENT = PAIR + rb"(?>(?:[ \t]*+;[ \t]*+" + PAIR + rb")*)"
LAST_ELEMENT = re.compile(rb"(?:\A|,)[ \t]*+(" + ELEMENT + rb")[ \t]*+\Z")


def elements_by_search(forwarded: bytes) -> list[bytes]:
    """The definition, at any cost: again and again the longest element that ends where the last one begins."""
    found = []
    while match := LAST_ELEMENT.search(forwarded.rstrip(b", ")):
        found.append(match[1])
        forwarded = forwarded[: match.start()]
    return found


@settings(deadline=None, max_examples=400)
@given(st.lists(st.sampled_from([b"a=", b"b", b'"', b"\\", b",", b";", b" ", b"=", b'a="', b'";']), max_size=24))
@example([b"a=", b'"', b"\\", b'"', b"\\", b"\\", b'"'])
def test_one_way_from_the_right_finds_what_the_grammar_has_there(parts: list[bytes]) -> None:
    assert list(_elements(b"".join(parts))) == elements_by_search(b"".join(parts))


NODES = st.sampled_from([b"6.6.6.6", b'"[2001:db8::6]"', b"unknown", b'"a, for=6.6.6.6"', b'"', b"\\", b";", b"=", b""])


@settings(deadline=None)
@given(st.lists(NODES, max_size=5), st.sampled_from([b", ", b",", b";for=", b", for=", b'", for=']))
@example([b'"'], b", for=")
def test_nothing_that_a_client_writes_moves_the_address_that_its_proxy_wrote(parts: list[bytes], joint: bytes) -> None:
    """The proxy appends its element, whatever stands there; that element is what counts."""
    invented = joint.join(parts).strip()
    for ours in (b"for=198.51.100.1", b'for=198.51.100.1;host="a.test";proto=http', b'host="x";for="198.51.100.1:1"'):
        assert client(b"Forwarded: " + b", ".join(each for each in (invented, ours) if each)) == "198.51.100.1"


def test_a_trusted_proxys_word_is_taken_and_its_own_added() -> None:
    lines = added(
        None,
        PROXY,
        b"X-Forwarded-For: 198.51.100.1",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: shop.test",
        b"X-Forwarded-Port: 443",
        b"X-Forwarded-Client-Cert: Hash=ab",
        b'Forwarded: for=198.51.100.1;host="shop.test"',
    )
    assert lines == {
        b"X-Forwarded-For": b"198.51.100.1, 10.0.0.9",
        b"X-Forwarded-Proto": b"https",
        b"X-Forwarded-Host": b"shop.test",
        b"X-Forwarded-Port": b"443",
        b"X-Forwarded-Client-Cert": b"Hash=ab",
        b"X-Real-IP": b"198.51.100.1",
        b"Forwarded": b'for=198.51.100.1, for=10.0.0.9;host="shop.test";proto=https',
    }


@pytest.mark.parametrize("heard", [b"198.51.100.1,", b", 198.51.100.1 ,,"])
def test_empty_members_at_the_ends_of_a_list_are_not_passed_on(heard: bytes) -> None:
    lines = added("append", PROXY, b"X-Forwarded-For: " + heard)
    assert lines[b"X-Forwarded-For"] == b"198.51.100.1, 10.0.0.9"
    assert lines[b"Forwarded"] == b'for=198.51.100.1, for=10.0.0.9;host="a.test";proto=http'
    assert lines[b"X-Real-IP"] == b"198.51.100.1"


def test_an_empty_member_between_others_is_no_unknown_client() -> None:
    lines = added("append", PROXY, b"X-Forwarded-For: 198.51.100.1,, 10.0.0.1")
    assert lines[b"Forwarded"] == b'for=198.51.100.1, for=10.0.0.1, for=10.0.0.9;host="a.test";proto=http'


@pytest.mark.parametrize("empty", [b"", b", ", b",,\t,"])
def test_empty_members_hide_neither_scheme_nor_host(empty: bytes) -> None:
    for fields in ([b"X-Forwarded-Proto: " + empty + b"https, http"], [b"Forwarded: " + empty + b"proto=https, for=a"]):
        assert client_scheme(head(*fields), PROXY) == b"https"
    assert client_authority(head(b"X-Forwarded-Host: " + empty + b"b.test, c"), PROXY) == b"b.test"


@for_each("policy", ["append", None])
@for_each(
    "lines",
    [[b", %b"], [b"%b ,\t,"], [b"", b"%b"], [b",", b" , %b"], [b"%b", b"", b"x"], [b", %b,, x"]],
)
def test_the_upstream_gets_scheme_host_and_port_as_the_gateway_reads_them(
    policy: str | None, lines: list[bytes]
) -> None:
    def field(name: bytes, value: bytes) -> list[bytes]:
        return [name + b": " + (line % value if b"%" in line else line) for line in lines]

    fields = [
        *field(b"X-Forwarded-Proto", b"https"),
        *field(b"X-Forwarded-Host", b"b.test"),
        *field(b"X-Forwarded-Port", b"444"),
    ]
    assert client_scheme(head(*fields), PROXY) == b"https"
    assert client_authority(head(*fields), PROXY) == b"b.test"
    to_upstream = added(policy, PROXY, *fields)
    assert to_upstream[b"X-Forwarded-Proto"] == b"https"
    assert to_upstream[b"X-Forwarded-Host"] == b"b.test"
    assert to_upstream[b"X-Forwarded-Port"] == b"444"


@pytest.mark.parametrize("empty", [[], [b""], [b","], [b"", b", ,"]])
def test_headers_of_empty_members_count_as_missing(empty: list[bytes]) -> None:
    """`Forwarded` says the scheme then, and what it says is in its first line that has a member."""
    fields = [b"%b: %b" % (b"X-Forwarded-" + name, line) for name in (b"Proto", b"Host", b"Port") for line in empty]
    forwarded = [*(b"Forwarded: " + line for line in empty), b"Forwarded: proto=https;for=198.51.100.1"]
    assert client_scheme(head(*fields), PROXY) == b"http"
    assert client_scheme(head(*fields, *forwarded), PROXY) == b"https"
    assert client_authority(head(*fields), PROXY) == b"a.test"
    to_upstream = added("append", PROXY, *fields, *forwarded)
    assert to_upstream[b"X-Forwarded-Proto"] == b"https"
    assert to_upstream[b"X-Forwarded-Host"] == b"a.test"
    assert to_upstream[b"X-Forwarded-Port"] == b"443"


def test_append_adds_a_stranger_to_its_lists_and_believes_nothing_else() -> None:
    """`forwarded: append` keeps what the client says of those before it; how and where it came is ours to say."""
    lines = added(
        "append",
        STRANGER,
        b"X-Forwarded-For: 6.6.6.6",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: bank.test",
        b"X-Forwarded-Port: 443",
        b"X-Forwarded-Client-Cert: Subject=admin",
        b"X-Real-IP: 6.6.6.6",
    )
    assert lines == {
        b"X-Forwarded-For": b"6.6.6.6, 203.0.113.5",
        b"X-Forwarded-Proto": b"http",
        b"X-Forwarded-Host": b"a.test",
        b"X-Forwarded-Port": b"80",
        b"X-Real-IP": b"203.0.113.5",
        b"Forwarded": b'for=6.6.6.6, for=203.0.113.5;host="a.test";proto=http',
    }


@pytest.mark.parametrize(
    ("heard", "kept"),
    [
        (b"for=1.1.1.1, for=2.2.2.2", b"for=1.1.1.1, for=2.2.2.2, "),
        (b'for="x, for=198.51.100.1', b"for=198.51.100.1, "),
        (b'for="x', b""),
        (b"for=1.1.1.1,, for=2.2.2.2,", b"for=1.1.1.1, for=2.2.2.2, "),
        (b",", b""),
    ],
)
def test_an_open_quote_does_not_swallow_our_element(heard: bytes, kept: bytes) -> None:
    """RFC 7239 section 4: of what is malformed the well-formed end is passed on, or a parser would lose ours in it."""
    lines = added("append", PROXY, b"Forwarded: " + heard)
    assert lines[b"Forwarded"] == kept + b'for=10.0.0.9;host="a.test";proto=http'


def test_set_strip_and_pass() -> None:
    sent = [b"X-Forwarded-For: 6.6.6.6", b"Forwarded: for=6.6.6.6"]
    assert added("set", PROXY, *sent)[b"X-Forwarded-For"] == b"10.0.0.9"
    assert added(None, STRANGER, *sent)[b"X-Forwarded-For"] == b"203.0.113.5"
    assert added("strip", PROXY, *sent) == added("pass", PROXY, *sent) == {}


@pytest.mark.parametrize(
    ("peer", "forwarded"),
    [
        (Peer("2001:db8::1", 1, 0, trusted=False), b'for="[2001:db8::1]";host="a.test";proto=http'),
        (Peer("unix:", 0, 0, trusted=False), b'for=unknown;host="a.test";proto=http'),
    ],
)
def test_peers_of_other_kinds(peer: Peer, forwarded: bytes) -> None:
    lines = added(None, peer)
    assert lines[b"Forwarded"] == forwarded
    assert (b"X-Real-IP" in lines) is (peer.ip != "unix:")


def test_without_a_host_none_is_claimed() -> None:
    """HTTP/1.0 may send none."""
    request = parse_request(b"GET / HTTP/1.0\r\n\r\n")
    peer = Peer("203.0.113.6", 1, 80, trusted=False)
    _, lines = fields_for_upstream(None, peer, request, "203.0.113.6", writes_forwarded=True)
    assert b"Forwarded: for=203.0.113.6;proto=http\r\n" in lines
    assert b"X-Forwarded-Host" not in lines


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ([b"X-Forwarded-Proto: https"], b"https"),
        ([b"X-Forwarded-Proto: https", b"X-Forwarded-Proto: http"], b"https"),
        ([b"X-Forwarded-Proto: http, https"], b"http"),
        ([b"X-Forwarded-Proto: , HTTPS ,http"], b"https"),
        ([b"X-Forwarded-Proto: wss"], b"https"),
        ([b"X-Forwarded-Proto: gopher, https"], b"http"),
        ([b"Forwarded: for=198.51.100.1;proto=https"], b"https"),
    ],
)
def test_the_upstream_gets_the_one_scheme_that_the_gateway_uses(fields: list[bytes], sent: bytes) -> None:
    fields = [b"X-Forwarded-For: 198.51.100.1", *fields]
    assert client_scheme(head(*fields), PROXY) == sent
    assert added("append", PROXY, *fields)[b"X-Forwarded-Proto"] == sent


HTTPS = b"X-Forwarded-Proto: https"


@for_each(
    ("fields", "host", "port"),
    [
        ([], b"a.test", b"80"),
        ([HTTPS], b"a.test", b"443"),
        ([b"Forwarded: proto=https;for=198.51.100.1"], b"a.test", b"443"),
        ([HTTPS, b"X-Forwarded-Host: b.test"], b"b.test", b"443"),
        ([HTTPS, b"X-Forwarded-Host: b.test:8443"], b"b.test:8443", b"8443"),
        ([HTTPS, b"X-Forwarded-Host: [2001:db8::1]"], b"[2001:db8::1]", b"443"),
        ([HTTPS, b"X-Forwarded-Host: [2001:db8::1]:8443"], b"[2001:db8::1]:8443", b"8443"),
        # a port of its own counts where the host has none
        ([HTTPS, b"X-Forwarded-Port: 8443"], b"a.test", b"8443"),
        ([b"X-Forwarded-Port: 8443, 80"], b"a.test", b"8443"),
        ([b"X-Forwarded-Port: 0443"], b"a.test", b"443"),
        ([HTTPS, b"X-Forwarded-Host: b.test:8443", b"X-Forwarded-Port: 443"], b"b.test:8443", b"8443"),
        *(([HTTPS, b"X-Forwarded-Port: " + port], b"a.test", b"443") for port in (b"0", b"65536", b"-1", b"http", b"")),
        # a proxy that writes only `Forwarded`
        ([b'Forwarded: for=198.51.100.1;Host="B.test:8443";proto=https'], b"b.test:8443", b"8443"),
        ([b"Forwarded: proto=https;host=b.test, host=c.test;proto=http"], b"b.test", b"443"),
        ([b'Forwarded: host="b\\.test"', b"X-Forwarded-For: ,"], b"b.test", b"80"),
        ([b"Forwarded: host=b.test;host=c.test"], b"a.test", b"80"),
        ([b'Forwarded: for="a;host=b.test"'], b"a.test", b"80"),
        ([b'Forwarded: host="b.test/x"'], b"a.test", b"80"),
        ([b"Forwarded: host=b.test", HTTPS], b"a.test", b"443"),
        ([b"Forwarded: host=b.test", b"X-Forwarded-For: 198.51.100.1"], b"a.test", b"80"),
        # a host that is none
        *(([b"X-Forwarded-Host: " + host], b"a.test", b"80") for host in (b"b.test:0", b"b.test:65536", b"b/x", b"")),
    ],
)
def test_scheme_host_and_port_agree_in_all_headers(fields: list[bytes], host: bytes, port: bytes) -> None:
    """They are those that the gateway uses itself, so the service cannot find another URL in a header of its choice."""
    lines, scheme = added(None, PROXY, *fields), client_scheme(head(*fields), PROXY)
    assert (lines[b"X-Forwarded-Proto"], lines[b"X-Forwarded-Host"], lines[b"X-Forwarded-Port"]) == (scheme, host, port)
    assert lines[b"Forwarded"].endswith(b'for=10.0.0.9;host="%b";proto=%b' % (host, scheme))


@for_each("peer", [PROXY, STRANGER])
@for_each("policy", [None, "append", "set"])
def test_forwarded_is_written_only_where_it_is_wanted(policy: str | None, peer: Peer) -> None:
    request = head(b"Forwarded: for=198.51.100.1;proto=https")
    dropped, lines = fields_for_upstream(policy, peer, request, "198.51.100.1")  # type: ignore[arg-type]
    assert b"forwarded" in dropped
    assert b"\nForwarded:" not in lines


@for_each(
    ("reported", "stripped", "sent"),
    [
        ([], b"", None),
        ([], b"/api", b"/api"),
        ([b"/shop"], b"", b"/shop"),
        ([b"/shop"], b"/api", b"/shop/api"),
        ([b"/shop/"], b"/api", b"/shop/api"),
        ([b"/outer, /inner"], b"", b"/outer/inner"),
        ([b"/outer", b"/inner"], b"/api", b"/outer/inner/api"),
        ([b"/a%2Fb"], b"", b"/a%2Fb"),
        *(
            ([prefix], b"/api", b"/api")
            for prefix in b"|/|shop|//evil.test|/shop, evil|/a//b|/../x|/a?b|/a#b|/a b|/%2e%2e|/<b>".split(b"|")
        ),
    ],
)
def test_the_prefix_of_the_path_is_that_of_all_proxies(
    reported: list[bytes], stripped: bytes, sent: bytes | None
) -> None:
    """The service puts it before its own links: it has to be a path, and nothing that a client has chosen."""
    request = head(*(b"X-Forwarded-Prefix: " + each for each in reported))
    for peer, expected in ((PROXY, sent), (STRANGER, stripped or None)):
        dropped, lines = fields_for_upstream(None, peer, request, peer.ip, stripped=stripped)
        assert b"x-forwarded-prefix" in dropped
        found = re.findall(rb"X-Forwarded-Prefix: (.*)\r\n", lines)
        assert found == ([] if expected is None else [expected])


def test_long_headers_of_a_proxy_are_not_remembered():
    """Any client may send them, through a proxy that passes them on."""
    for size in (MOST_REMEMBERED_BYTES - 9, MOST_REMEMBERED_BYTES + 1, 20_000):
        _remembered_lines.cache_clear()
        _remembered_origin.cache_clear()
        host = b"h" * size
        for _ in range(2):
            assert added(None, PROXY, b"X-Forwarded-Host: " + host)[b"X-Forwarded-Host"] == host
        kept = _remembered_lines.cache_info().currsize, _remembered_origin.cache_info().currsize
        assert kept == ((1, 1) if size < MOST_REMEMBERED_BYTES else (0, 0))
