"""Messages that are nearly HTTP/1.1: right in most places, so that what is wrong in one is looked at."""

from __future__ import annotations

from random import Random

METHODS = b"GET HEAD POST PUT PATCH DELETE OPTIONS CONNECT TRACE PROPFIND M-SEARCH PURGE QUERY".split()
BAD_METHODS = [b"get", b"", b"G T", b"FROB", b"PRI", b"SETUP", b"GET\t", b"X" * 32, b"X" * 33, b"\xc7ET", b"G\x00T"]
VERSIONS = [
    *(b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.1 ", b"HTTP/1.10", b"HTTP/11", b""),
]
STATUSES = b"200 200 200 200 200 200 201 204 205 206 301 304 400 404 500 503 100 101 103 199 299 599".split()
BAD_STATUSES = [b"000", b"099", b"600", b"20", b"2000", b"2 0", b"abc", b"-20", b"+20", b"2\x000", b""]
REASONS = [
    *(b" OK", b"", b" ", b"  ", b" \xff\x80", b" a\tb", b" Not Found", b"\tOK", b" a\x00", b" a\x7f"),
    b" " + b"r" * 70,
]

SEGMENTS = [
    *(b"", b"a", b"users", b"42", b"a.b", b"a%20b", b"%61", b"%2e", b"%2E%2e", b".", b"..", b"...", b"%2F", b"%5c"),
    *(b"%00", b"%0d", b"%7F", b"%25", b"%252e", b"%25252F", b"%c0%af", b"%e0%80", b"%f0%8f", b"%", b"%4", b"%zz"),
    b";x",
    *(b"..;a", b".;", b"a;b=c", b"a|b", b"{id}", b'"', b"<", b"`", b"~", b"!$&'()*+,;=:@", b"\\", b"\xc3\xa9", b"a#b"),
    *(b"x" * size for size in (14, 15, 16, 17, 31, 32, 33, 63, 64, 65, 300)),
]
QUERIES = [
    *(b"", b"a=b", b"a=b&c=%20", b"?", b"#", b"/", b"q=" + b"x" * 60, b"\xff", b"\x00", b" ", b"token=secret", b"%"),
]
AUTHORITIES = [
    *(b"a", b"a.test", b"A.Test", b"a.test:80", b"a.test:8080", b"a.test.", b"127.0.0.1", b"[::1]", b"[::1]:81", b"a:"),
    *(b"", b"a:99999", b"a:x", b"u@a", b"a,b", b"a b", b"[::1", b"::1", b"a/b", b"a..b", b"-", b"xn--a", b"a_b"),
    b"%61",
    *(b"a:080", b"a:00080", b"a:0", b"a\xff", b"*", b"a:80:80", b"[fe80::1%25a]", b"[v1.a]", b"h" * 254, b"1.2.3.4.5"),
    *(b"h" * 253, b"h" * 253 + b".", b"h" * 254 + b".", b"a.:80", b".", b".a", b"a:65535", b"a:65536", b"a:8_0"),
]

NAMES = (
    b"Host Connection Content-Length Transfer-Encoding Keep-Alive Proxy-Authenticate Proxy-Authorization "
    b"Proxy-Connection TE Upgrade Forwarded X-Forwarded-Client-Cert X-Forwarded-For X-Forwarded-Host X-Forwarded-Port "
    b"X-Forwarded-Proto X-Real-IP Expect Max-Forwards Trailer Via X-Request-Id Date Server User-Agent Referer Accept "
    b"Cookie Authorization Content-Type Accept-Encoding Cache-Control If-None-Match Range Set-Cookie ETag Location "
    b"Origin Age Vary A X Q-Z X-A X-Forwarded X-Forwarded-Fo X-Forwarded-Server Content-Lengt Content-Length2 Ho TEE "
    b"X-Forwarded-Prefix Traceparent Sec-WebSocket-Key Deprecation Link"
).split()
FOR_ALL = [
    *(b"", b"a", b"a, b", b"close", b"a\xff\x80b", b"\xe2\x80\xae", b"a\tb", b"a  b", b",", b'"a, b"', b"0"),
    b"x=y; z",
]
VALUES = {
    b"host": AUTHORITIES,
    b"content-length": [
        *(b"0", b"3", b"3", b"5", b"00", b"03", b"3 ", b"+3", b"-3", b"3,3", b"3, 3", b"0x3", b"3.0", b"\xb2"),
        *(b"3_0", b""),
        *(b"9" * 18, b"9" * 19, b"1" + b"0" * 18, b"18446744073709551619", b"0" * 18, b"0" * 19, b"1e3", b"3 3"),
    ],
    b"transfer-encoding": [
        *(b"chunked", b"chunked", b"Chunked", b"chunked ", b"chunked\t ", b"gzip, chunked", b"chunked, gzip"),
        b"xchunked",
        *(b"chunkedx", b"identity", b"chunked;a", b"chunked,", b",chunked", b"", b"chunked, chunked", b"\x0bchunked"),
    ],
    b"connection": [
        *(b"close", b"keep-alive", b"Keep-Alive", b"Close", b"CLOSE", b"upgrade", b"Upgrade, close"),
        b"keep-alive, Upgrade",
        *(b"X-A", b"x-a, close", b"host", b"te", b"transfer-encoding", b"x-forwarded-for", b"user-agent"),
        b"cookie, x-a",
        *(b"", b",", b"close,", b", close", b"clos", b"closed", b"close;a", b"a b", b"\xff", b"x-a,x-a,X-A"),
        b"keep-alive ",
    ],
    b"upgrade": [b"websocket", b"h2c", b"WebSocket, h2c", b"a/1", b"", b",", b"h2c, x", b"H2C"],
    b"te": [b"trailers", b"Trailers", b"gzip", b"gzip, trailers", b"trailers;q=1", b""],
    b"expect": [b"100-continue", b"100-Continue", b"200-ok", b"", b"100-continue, a", b"100-continue "],
    b"max-forwards": [b"0", b"1", b"10", b"-1", b"a", b""],
    b"via": [b"1.1 a", b"1.0 fred, 1.1 b"],
    b"x-request-id": [b"0af7651916cd43dd8448eb211c80319c", b"a b", b"i" * 200],
    b"user-agent": [b"curl/8.5.0", b"Mozilla/5.0 (X11; Linux x86_64)", b'"', b"\\", b"u" * 700],
    b"referer": [b"http://a/?token=secret&b=c", b"/"],
}
LINE_ENDS = [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n ", b"\r\n\t", b"", b"\r\n\r\n", b" \r\n", b"\x85", b"\x0b\r\n"]
SPACES = [b"", b"", b" ", b" ", b" ", b"  ", b"\t", b" \t ", b" " * 40]
ODD_BYTES = bytes(
    [*range(0x21), 0x22, 0x23, 0x25, 0x2C, 0x2F, 0x3A, 0x3B, 0x40, 0x5B, 0x5C, 0x5F, 0x60, 0x7B, 0x7F, 0x80, 0xFF]
)


def request(random: Random) -> bytes:
    """A request, and perhaps what follows it."""
    return message(random, *_asking(random))


CONTENTS = [
    b"a",
    b"abc",
    b"\r\n",
    b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x00" * 17,
    b"0\r\n\r\n",
    b"x" * 3000,
]


def request_with_body(random: Random) -> bytes:
    """A request that mostly is as long as it says."""
    line, fields = _asking(random)
    content = random.choice(CONTENTS)
    said = len(content) if random.random() < 0.9 else len(content) + random.choice((-1, 1, 30))
    fields += [(b"Content-Length", b"%d" % said), *(field(random) for _ in range(random.randint(0, 4)))]
    return _head(random, line, fields) + content


def _asking(random: Random) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    method = random.choice(METHODS[:4] if random.random() < 0.7 else METHODS)
    if random.random() < 0.03:
        method = random.choice(BAD_METHODS)
    authority = random.choice(AUTHORITIES[:9] if random.random() < 0.95 else AUTHORITIES)
    line = b"%b %b %b" % (method, target(random, method, authority), version(random))
    if random.random() < 0.01:
        line = line.replace(b" ", random.choice([b"  ", b"\t", b"", b"\r"]), random.randint(1, 2))
    return line, [] if random.random() < 0.03 else [(b"Host", authority)]


def response(random: Random) -> bytes:
    """A response, and perhaps what follows it."""
    status = random.choice(STATUSES if random.random() < 0.97 else BAD_STATUSES)
    reason = random.choice(REASONS[:4] if random.random() < 0.9 else REASONS)
    return message(random, b"%b %b%b" % (version(random), status, reason), [])


def version(random: Random) -> bytes:
    die = random.random()
    return b"HTTP/1.1" if die < 0.93 else b"HTTP/1.0" if die < 0.97 else random.choice(VERSIONS)


def target(random: Random, method: bytes, authority: bytes) -> bytes:
    """Mostly in the form that the method has; mostly a path that needs nothing done."""
    die = random.random()
    if method == b"CONNECT" and die < 0.9:
        return authority
    if die < 0.02:
        return random.choice(
            [b"*", b"", b"a", b"a:80", b"?a", b"#", b"http:", b"ftp://a/", b"//", b"/ /", b"http:///a"]
        )
    pool = SEGMENTS[1:5] if random.random() < 0.6 else SEGMENTS
    path = b"".join(b"/" + random.choice(pool) for _ in range(random.randint(0, 5))) or b"/"
    if random.random() < 0.4:
        path += b"?" + random.choice(QUERIES[:3] if random.random() < 0.8 else QUERIES)
    if random.random() < 0.06:
        where = authority if random.random() < 0.8 else random.choice(AUTHORITIES)
        path = random.choice([b"http://", b"https://", b"HTTP://"]) + where + (path if random.random() < 0.9 else b"")
    return path


def message(random: Random, line: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    count = (
        random.choice((0, 1, 2, 3, 4, 6, 9, 14)) if random.random() < 0.99 else random.choice((98, 99, 100, 101, 150))
    )
    framed = random.random() if line[:2] != b"HT" else random.random() * 0.6  # most responses have a body
    if framed < 0.2:
        fields.append((b"Content-Length", random.choice(VALUES[b"content-length"][: 4 if framed < 0.17 else None])))
    elif framed < 0.4:
        fields.append(
            (b"Transfer-Encoding", random.choice(VALUES[b"transfer-encoding"][: 3 if framed < 0.37 else None]))
        )
    fields += [field(random) for _ in range(count)]
    return _head(random, line, fields) + body(random, framed)


def _head(random: Random, line: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    if random.random() < 0.05:
        fields.append(random.choice(fields) if fields else (b"A", b"b"))
    if random.random() < 0.5:
        random.shuffle(fields)
    lines = [line + b"\r\n", *(written(random, *each) for each in fields), b"\r\n"]
    if random.random() < 0.03:
        lines[random.randrange(len(lines))] = random.choice(LINE_ENDS)
    head = b"".join(lines)
    return with_odd_byte(random, head) if random.random() < 0.05 else head


def field(random: Random) -> tuple[bytes, bytes]:
    name = random.choice(NAMES[24:] if random.random() < 0.6 else NAMES)
    choice = VALUES.get(name.lower(), FOR_ALL)
    die = random.random()
    if die < 0.03:
        choice = FOR_ALL
    value = random.choice(choice)
    if die > 0.85:
        value += b"v" * random.randint(0, 70)  # across the widths at which a scan takes its steps
    elif die > 0.847:
        value = b"w" * random.choice((4000, 8192, 16_384, 66_000))
    return spelled(random, name), value


def spelled(random: Random, name: bytes) -> bytes:
    """The name, seldom as it is: in other case, with underscores, one letter off, or one bit, as case is one bit."""
    die = random.random()
    if die < 0.75:
        return name
    if die < 0.85:
        return random.choice([name.lower(), name.upper(), name.swapcase()])
    if die < 0.88:
        return name.replace(b"-", b"_", random.randint(1, 2))
    at = random.randrange(len(name))
    if die < 0.93:
        return name[:at] + bytes([name[at] ^ 0x20]) + name[at + 1 :]
    if die < 0.96:
        return name[:at] + bytes([random.randrange(0x21, 0x7F)]) + name[at + 1 :]
    if die < 0.98:
        return name[:at] + name[at + 1 :]
    return bytes(random.choices(b"abcXYZ-_.!~09", k=random.choice((1, 2, 15, 16, 17, 33, 64, 300))))


def written(random: Random, name: bytes, value: bytes) -> bytes:
    before, behind = (b" ", b"") if random.random() < 0.8 else (random.choice(SPACES), random.choice(SPACES))
    return b"%b:%b%b%b\r\n" % (name, before, value, behind)


def with_odd_byte(random: Random, head: bytes) -> bytes:
    at = random.randrange(len(head))
    odd = bytes([random.choice(ODD_BYTES)])
    return head[:at] + odd + head[at + random.randint(0, 1) :]


CHUNKS = [
    *(b"1\r\na\r\n", b"03;a=b\r\nabc\r\n", b"4\r\n\r\n\r\n\r\n", b'A;a="\\""\r\n0123456789\r\n'),
    b"a\r\n0123456789\r\n",
    *(b"3\nabc\r\n", b"3\r\nabcd\r\n", b"3;a\nbc\r\nabc\r\n", b"3 \r\nabc\r\n", b"+3\r\nabc\r\n", b"g\r\n"),
    b"3\r\nabc\n",
    *(b"0" * 15 + b"1\r\na\r\n", b"0" * 16 + b"1\r\na\r\n", b"f" * 16 + b"\r\n", b"-1\r\n", b"0x1\r\na\r\n"),
    *(b";\r\n", b"\r\n"),
]
ENDS = [
    *(b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", b"000;a\r\n\r\n"),
    *(b"0\r\nX-A:\r\nB: c\r\n\r\n", b""),
    *(b"0\r\nA: b\n\r\n", b"0\r\n\n", b"0\r\n\r", b"0\r\n b\r\n\r\n", b"0\r\nHost: a\r\n\r\n"),
    b"0\r\nContent-Length: 3\r\n\r\n",
]

FOLLOWING = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n", b"x", b"\n", b"\x00"]


def body(random: Random, framed: float) -> bytes:
    """What fits what `message` has declared, mostly."""
    if random.random() < 0.1:
        framed = random.random()
    if framed < 0.2:
        content = random.choice([b"", b"abc", b"abc", b"abcde", b"ab", b"abcd"])
    elif framed < 0.4:
        pool = CHUNKS[:5] if random.random() < 0.8 else CHUNKS
        content = b"".join(random.choices(pool, k=random.randint(0, 3)))
        content += random.choice(ENDS[:6] if random.random() < 0.8 else ENDS)
    else:
        content = b""
    following = random.random()
    if following < 0.1:
        content += random.choice(
            [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n", b"x", b"HTTP/1.1 200 OK\r\n\r\n", b"\n", b"\x00"]
        )
    return content
