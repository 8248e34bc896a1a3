"""Requests that a WAF should refuse or pass: the regression data of coreruleset, and ordinary ones.

`regression.jsonl` is taken from `tests/regression` of coreruleset v3.3.4 (https://github.com/coreruleset/coreruleset,
Apache License 2.0: `LICENSE.coreruleset`), in a compact form: at most 12 attacks and 12 harmless requests of each rule,
without those of protocol enforcement (911, 920) and those that are no valid HTTP/1.1. `level`: paranoia level of the
rule; `crs`: whether the CRS refuses it at this level with the threshold 5 (libmodsecurity 3.0.9).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).parent / "regression.jsonl"


class Case(NamedTuple):
    """A request with its expected treatment."""

    rule: int
    level: int
    attack: bool
    method: str
    uri: str
    headers: Sequence[tuple[str, str]]
    body: str | None
    crs: bool

    @property
    def request(self) -> bytes:
        """The request as a client sends it."""
        lines = [f"{self.method} {self.uri.partition('#')[0]} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value.strip()}" for name, value in self.headers if name.lower() != "host"]
        if not any(name.lower() == "user-agent" for name, _ in self.headers):
            lines.append("User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
        body = b"" if self.body is None else self.body.encode("latin-1")
        if self.body is not None:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@cache
def regression_cases() -> Sequence[Case]:
    """Return the regression data."""
    return [Case(**json.loads(line)) for line in _FILE.read_text().splitlines()]


def form(body: str) -> bytes:
    return _post("application/x-www-form-urlencoded", body.encode())


def in_json(body: object) -> bytes:
    return _post("application/json", json.dumps(body, ensure_ascii=False).encode())


def get(target: str, *headers: str) -> bytes:
    lines = [f"GET {target} HTTP/1.1", "Host: shop.example", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def _post(kind: str, body: bytes) -> bytes:
    return b"POST /api HTTP/1.1\r\nHost: shop.example\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        kind.encode(),
        len(body),
        body,
    )


_BROWSER = (
    "User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: de-DE,de;q=0.9,en;q=0.7",
    'Sec-CH-UA: "Not/A)Brand";v="8", "Chromium";v="126"',
    "Referer: https://shop.example/search?q=blue+shoes&page=2",
    "Cookie: session=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln; _ga=GA1.2.1234567890.1719999999; theme=dark; "
    "consent=%7B%22ads%22%3Afalse%7D",
)
_MULTIPART = (
    b'--X1\r\nContent-Disposition: form-data; name="comment"\r\n\r\nThanks, it\'s great; I love it!\r\n'
    b'--X1\r\nContent-Disposition: form-data; name="photo"; filename="holiday (1).jpg"\r\n'
    b"Content-Type: image/jpeg\r\n\r\n" + bytes(range(256)) + b"\r\n--X1--\r\n"
)
HARMLESS = (
    get("/"),
    get("/api/v1/users/12345/orders?limit=10&offset=20&sort=-created_at&fields=id,name,total", *_BROWSER),
    get("/search?q=blue+shoes+%26+socks&category=men%27s"),
    get("/search?q=O%27Brien"),
    get("/search?q=rock+%27n%27+roll"),
    get("/search?q=select+a+plan+from+the+list"),
    get("/search?q=union+of+european+states+and+their+history"),
    get("/search?q=how+to+drop+a+table+at+a+restaurant"),
    get("/search?q=1+%2B+1+%3D+2"),
    get("/search?q=price+%3E+100+and+price+%3C+200"),
    get("/search?q=C%2B%2B+or+C%23%3F"),
    get("/search?q=%22exact+phrase%22+-other"),
    get("/search?q=where+can+I+order+by+phone"),
    get("/search?q=Stra%C3%9Fe+Z%C3%BCrich+caf%C3%A9"),
    get("/search?q=%E6%97%A5%E6%9C%AC%E8%AA%9E"),
    get("/callback?code=4%2F0AX4XfWh&state=xyz-123_~abc&scope=openid%20email%20https%3A%2F%2Fapi.example%2Fauth"),
    get("/login?return_to=https%3A%2F%2Fshop.example%2Faccount%3Ftab%3Dorders"),
    get("/items?filter%5Bprice%5D%5Bmin%5D=10&filter%5Btags%5D%5B%5D=new&filter%5Btags%5D%5B%5D=sale"),
    get("/items?ids=1,2,3&created=2026-01-31T12:00:00%2B02:00"),
    get("/v1/projects/p-1/locations/eu/functions/hello:call?alt=json"),
    get("/static/app.3f9c2e1b.js?v=1.2.3"),
    get("/static/jquery.min.js.map"),
    get("/files/Annual%20report%20(final)%20v2.pdf"),
    get("/wiki/Select_(SQL)"),
    get("/users/@me/avatar.png?size=64"),
    get("/.well-known/openid-configuration"),
    get("/graphql?query=%7Buser(id%3A1)%7Bname%20email%7D%7D"),
    get("/metrics?match%5B%5D=up%7Bjob%3D%22api%22%7D&start=1719999999"),
    get("/", "User-Agent: curl/8.5.0"),
    get("/", "User-Agent: python-requests/2.32.3"),
    get("/", "User-Agent: okhttp/4.12.0"),
    get("/", "User-Agent: Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
    get("/", 'If-None-Match: "abc"', "X-Request-Id: 7c9e6679-7425-40de-944b-e07fc1f90ae7"),
    get("/", "X-Forwarded-For: 203.0.113.9, 198.51.100.7", "Forwarded: for=203.0.113.9;proto=https"),
    form("name=Sean+O%27Brien&city=L%27Aquila&note=Don%27t+call+before+9am%3B+use+the+back+door"),
    form("email=jane.doe%2Btest%40example.com&password=p%40ss%23W0rd%21&remember=on"),
    form("amount=%241%2C234.56&currency=USD&terms=yes&comment=Price+%3D+10%25+off+%28today+only%29"),
    form("message=Hi+team%2C%0D%0A%0D%0AI+would+like+to+order+5+chairs+and+2+tables.%0D%0ABest%2C+Ann"),
    form("bio=I+like+cats+%26+dogs%3B+also+tea+%2F+coffee.+Ask+me%3A+why+not%3F"),
    form("address=12+Main+St.%2C+Apt+%234&zip=02139&phone=%2B1+%28617%29+555-0199"),
    form("title=The+%22Best%22+of+2026+--+a+review&rating=4.5"),
    form("comment=I+think+1+and+2+are+fine%2C+or+maybe+3"),
    form("body=See+https%3A%2F%2Fexample.com%2Fa%3Fb%3Dc%26d%3De+for+details"),
    form("q=insert+coin+into+slot%2C+then+select+drink+from+menu"),
    form("description=Update+the+documentation+and+set+the+table+before+dinner"),
    form("answer=if+%28x+%3E+0%29+then+y"),
    form("quote=%27To+be%2C+or+not+to+be%27+is+from+Hamlet"),
    form("name=D%27Angelo+%26+Sons&name2=%27Quoted%27"),
    form("text=He+said%3A+%22It%27s+5+o%27clock%22%2C+and+left."),
    form("text=Execute+the+plan%3B+delete+old+files+later.+Thanks%21"),
    in_json({"name": "Conor O'Brien", "age": 42, "tags": ["a", "b"], "active": True, "note": None}),
    in_json({"title": "Release notes", "markdown": "# Heading\n\n* item one\n* item **two**\n\n> quote\n\n1. `code`"}),
    in_json({"markdown": "Use [our site](https://example.com/docs?x=1#top) & enjoy -- it's free!\n\n---\n| a | b |\n"}),
    in_json({"prose": "Please select your order from the menu, then update your profile and drop us a line."}),
    in_json({"prose": "The union select committee met on Monday; where possible, members insert comments."}),
    in_json({"math": "a < b && c > d || e == f; 3 * (4 + 5) = 27"}),
    in_json({"price": {"$": 12.5}, "items": [{"sku": "A-1", "qty": 2}, {"sku": "B-2", "qty": 1}]}),
    in_json({"url": "https://example.com/path/to/page?utm_source=newsletter&utm_medium=email", "method": "GET"}),
    in_json({"greeting": "¡Hola! ¿Qué tal? Ça va bien, merci — “gut”.", "emoji": "😀👍🏽"}),
    in_json({"jsonrpc": "2.0", "method": "eth_call", "params": [{"to": "0xdeadbeef", "data": "0x70a08231"}], "id": 1}),
    in_json({"query": "query Q($id: ID!) { user(id: $id) { id name posts(first: 10) { edges { node { title } } } } }",
             "variables": {"id": "42"}}),
    in_json({"address": "Rue de l'Église 5, 1000 Bruxelles", "company": "Smith & Sons, Inc.", "vat": "BE 0123.456"}),
    in_json({"comment": "Don't; won't -- can't! (really?) 100% sure... #1 @home"}),
    in_json({"token": "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"}),
    in_json({"image": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"}),
    in_json({"cron": "*/5 * * * *", "timezone": "Europe/Berlin", "version": "^1.2.3", "glob": "src/main.ts"}),
    in_json({"recipe": "Heat oil to 180 degrees; add 2 eggs & 1/2 cup sugar. Time: 20-25 min."}),
    in_json({"legal": "Section 4(a)(1) applies, and/or section 5; see 12 U.S.C. 1841 et seq."}),
    in_json([{"op": "replace", "path": "/a/b/c", "value": "x"}, {"op": "remove", "path": "/d"}]),
    _post("text/plain", b"Dear all, the meeting is at 10:30. Please bring: laptop, charger; and snacks. Thanks - Bob"),
    _post("application/xml", b'<?xml version="1.0"?><order id="7"><item qty="2">Shoes &amp; socks</item></order>'),
    _post("multipart/form-data; boundary=X1", _MULTIPART),
    _post("application/octet-stream", bytes(range(256)) * 8),
)  # fmt: skip
"""Ordinary requests, which pass at paranoia 1."""
