"""Messages for microbenchmarks: 1,000 requests like those of `bench/load/requests.lua`, and responses like the
origin's.
"""

import random
import re

_random = random.Random(42)


def _hex(digits: int) -> str:
    return f"{_random.getrandbits(4 * digits):0{digits}x}"


def _request() -> bytes:
    number = _random.randint
    path = f"/svc{number(0, 99)}/v1/items/{number(1, 10**6)}/detail?page={number(1, 50)}&q={_hex(number(6, 20))}"
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: api.example.com",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
        f"Chrome/126.0.{number(1000, 9999)}.0 Safari/537.36",
        f"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.{number(1, 9)}",
        f"Accept-Language: en-GB,en;q=0.9,de;q=0.{number(1, 8)}",
        f"Accept-Encoding: gzip, deflate, br, zstd;q=0.{number(1, 9)}",
        "Connection: keep-alive",
        f"Cache-Control: max-age={number(0, 600)}",
        f"Referer: https://www.example.com/catalogue/{_hex(12)}/list?from={number(1, 99999)}",
        f"X-Request-Id: {_hex(8)}-{_hex(4)}-{_hex(4)}-{_hex(12)}",
        f"X-Client-Version: web-{number(1, 20)}.{number(0, 99)}",
        f"Authorization: Bearer {_hex(200 + number(0, 40))}",
        f"Cookie: session={_hex(48)}; theme=dark; _ga=GA1.2.{number(1, 10**8)}.{number(1, 10**9)}; "
        f"csrftoken={_hex(32)}",
        f"Traceparent: 00-{_hex(32)}-{_hex(16)}-01",
        f'If-None-Match: W/"{_hex(16)}"',
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _response() -> bytes:
    lines = [
        "HTTP/1.1 200 OK",
        "Server: nginx",
        "Date: Mon, 06 Jul 2026 12:00:00 GMT",
        "Content-Type: application/json; charset=utf-8",
        f"Content-Length: {_random.randint(900, 1100)}",
        "Connection: keep-alive",
        "Cache-Control: private, max-age=0, must-revalidate",
        f'ETag: W/"{_hex(16)}"',
        "Vary: Accept-Encoding, Origin",
        "X-Content-Type-Options: nosniff",
        "X-Frame-Options: DENY",
        "Strict-Transport-Security: max-age=31536000; includeSubDomains",
        f"X-RateLimit-Remaining: {_random.randint(0, 4999)}",
        f"Set-Cookie: sid={_hex(32)}; Path=/; HttpOnly; SameSite=Lax",
        "Content-Security-Policy: default-src 'self'; frame-ancestors 'none'",
        f"X-Request-Id: {_hex(8)}-{_hex(4)}-{_hex(4)}-{_hex(12)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


REQUESTS = [_request() for _ in range(1000)]
RESPONSES = [_response() for _ in range(1000)]

BODY = b'{"id": 7}' * 125
CONTENT_LENGTH = re.compile(rb"Content-Length: (\d+)")
POSTS = [
    request.replace(b"GET", b"POST", 1)[:-2]
    + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    + BODY
    for request in REQUESTS
]
"""The same requests with bodies."""
ANSWERS = [head + BODY[: int(CONTENT_LENGTH.search(head)[1])] for head in RESPONSES]  # type: ignore[index]
"""`RESPONSES` with their bodies."""
