"""Access log lines: what each format looks like, that no peer can break a line, and that secrets are masked."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import patch
from urllib.parse import unquote_to_bytes

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.observe.access_log import formats, line_formats
from fastgw.observe.access_log.formats import MAX_LINE
from fastgw.observe.access_log.line_formats import FORMATS
from fastgw.observe.access_log.record import Record
from fastgw.observe.access_log.secret_names import SecretNames, masker
from tests.support.mask_model import MaskModel
from tests.support.secrecy import SECRET_NAMES
from tests.support.table import for_each

GOLDEN = Path(__file__).parents[3] / "contract" / "access_log"

PROXIED = Record(
    ended_date=1767225599.1239,
    consumer="alice@example",
    client="192.0.2.7",
    listener="public",
    method=b"POST",
    scheme=b"https",
    host=b"api.example.com",
    path=b"/users/7",
    query=b"page=2&access_token=abc",
    version=11,
    status=201,
    request_bytes=512,
    response_bytes=2048,
    duration_s=0.0123456,
    route="user",
    upstream="users",
    target="users-1:9001",
    upstream_s=0.011,
    retries=1,
    request_id=b"01JD4Z",
    user_agent=b'Mozilla/5.0 (X11) "quoted"',
    referer=b"https://app.example/login?code=xyz&next=1",
)
REFUSED = Record(
    ended_date=1767225600.0,
    client="",
    listener="local",
    method=b"",
    scheme=b"",
    host=b"",
    path=b"",
    query=None,
    version=10,
    status=400,
    request_bytes=0,
    response_bytes=120,
    duration_s=0.0,
    fault="bad_request",
)


def changed(record: Record, **changes: object) -> Record:
    return msgspec.structs.replace(record, **changes)


@pytest.fixture(autouse=True)
def named_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The `host` of GELF."""
    monkeypatch.setattr(line_formats, "source_name", lambda: "gateway-1")


def line(record: Record, format: str = "json") -> bytes:
    return FORMATS[format](record, masker(()))


@pytest.mark.parametrize("format", FORMATS)
def test_the_formats_are_the_contract(format: str) -> None:
    """A field that changes its name or place breaks somebody's dashboard: these files change by decision only."""
    assert line(PROXIED, format) + line(REFUSED, format) == (GOLDEN / f"{format}.log").read_bytes()


@for_each(
    ("query", "shown"),
    [
        (b"token=a", b"token=***"),
        (b"a=1&token=b&c=2", b"a=1&token=***&c=2"),
        (b"TOKEN=a&Access_Token=b&passWORD=c&api_key=d&code=e&secret=f", None),
        (b"%74oken=a&%54%4f%4b%45%4e=b&tok%65n=", b"%74oken=***&%54%4f%4b%45%4e=***&tok%65n=***"),
        (b"sid=1", b"sid=***"),
        (b"session+id=1&session%20id=2", b"session+id=***&session%20id=***"),
        (b"stra%c3%9fe=1&STRASSE=2&stra\xc3\x9fe=3", b"stra%c3%9fe=***&STRASSE=***&stra\xc3\x9fe=***"),
        (b"+token=a&%20token=b", b"+token=***&%20token=***"),
        (b"token=a=b=c", b"token=***"),
        (b"token=a;b=c&d=e", b"token=***&d=e"),
        (b"a=1;token=b;c=2&d=3", b"a=1;token=***&d=3"),
        (b"next=/cb?code=a&d=3", b"next=/cb?code=***&d=3"),
        (b"https://h/cb?code=a#access_token=b", b"https://h/cb?code=***"),
        (b"https://h/cb#access_token=b", b"https://h/cb#access_token=***"),
        (b"tokens=a&xtoken=b&author=c&keyword=d", b"tokens=a&xtoken=***&author=c&keyword=d"),
        (b"a=token&b=token=1", b"a=token&b=token=1"),
        (b"token&secret", b"token&secret"),
        # within a URL that is itself a value, encoded once or more often
        (b"next=%2Fcb%3Ftoken%3Dabc%26x%3D1&y=2", b"next=%2Fcb%3Ftoken%3D***&y=2"),
        (b"next=%252Fcb%253Facc%2565ss_token%253Dabc", b"next=%252Fcb%253Facc%2565ss_token%253D***"),
        (b"q=token%3Dabc;d", b"q=token%3D***"),
        (b"next=%2Fcb%3Fa%3D1%26token%3Dabc", b"next=%2Fcb%3Fa%3D***"),
        (b"acc%2565ss_token%3Da&b=acc%65ss_token%253Da", b"acc%2565ss_token%3D***&b=acc%65ss_token%253D***"),
        (b"q=tokens%3Dabc%3D%3D&c=1", b"q=tokens%3Dabc%3D%3D&c=1"),
        (b"token%20%3D1", b"token%20%3D***"),
        # in brackets
        (b"user[password]=a&user%5Btoken%5D=b&user[name]=c", b"user[password]=***&user%5Btoken%5D=***&user[name]=c"),
        (b"token[]=a&token[0]=b&token%5B%5D=c&n[]=d", b"token[]=***&token[0]=***&token%5B%5D=***&n[]=d"),
        (b"user[password][]=a&password[user]=b&[]=c&[=d", b"user[password][]=***&password[user]=***&[]=c&[=d"),
        (b"q=token%5B%5D%3Da", b"q=token%5B%5D%3D***"),
        # words in a name that are joined otherwise
        (
            b"accessToken=a&access-token=b&Secret-Key=c&XApiKey=d",
            b"accessToken=***&access-token=***&Secret-Key=***&XApiKey=***",
        ),
        # user and password of a URL
        (b"https://u:p@h/x?a=b", b"https://***@h/x?a=b"),
        (b"https://u:p@ss@h/", b"https://***@h/"),
        (b"next=https%3A%2F%2Fu%3Ap%40h%2F&a=b@c", b"next=https%3A%2F%2F***%40h%2F&a=b@c"),
        (b"https://h/@scope?to=a@b.c", b"https://h/@scope?to=a@b.c"),
        (b"%zz=1&=token&&=", b"%zz=1&=token&&="),
        (b"", b""),
        (None, None),
    ],
)
def test_values_of_secret_parameters_are_masked(query: bytes | None, shown: bytes | None) -> None:
    """By name: decoded, without case, wherever some upstream may see a parameter begin."""
    mask = masker(["sid", "Session id", "straße"])
    if shown is None and query is not None:
        shown = re.sub(rb"=[^&]*", b"=***", query)
    assert mask(query) == shown


PIECES = (
    b"token sid zipcode a x-amz-signature %74oken to%2565n %5B %5D [ ] = = %3D %3d %253D %25253d %252525252525253D "
    b"& %26 ; %3B ? %3F # / // %2F %2f%2F : %3A %253A :// @ %40 %2540 + %20 . - _ % %2 user:pw@host "
    b"https%3A%2F%2Fu%3Ap%40h%2F token%3D api key otp PHPSESSID"
).split(b" ")


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=10).map(b"".join), min_size=1, max_size=3))
@settings(max_examples=1000)
def test_what_is_masked_is_what_patterns_find(queries: list[bytes]) -> None:
    """Also the second time, when the names are known."""
    secrets, model = SecretNames(("sid",)), MaskModel(("sid",))
    for query in queries * 2:
        assert secrets.mask(query) == model.mask(query)


def test_names_that_peers_invent_displace_others_and_change_none() -> None:
    """Few are remembered, and each is judged as before."""
    secrets = SecretNames(())
    for number in range(20_000):
        shown = b"n%d=1&%b=2&token=" % (number, b"long" * 100)
        assert secrets.mask(shown + b"3") == shown + b"***"
        assert secrets.mask(b"token%d=1" % number) == b"token%d=***" % number


@pytest.mark.parametrize("format", FORMATS)
def test_a_secret_is_in_no_line(format: str) -> None:
    """The query and the referer's are masked before a line is cut, so cutting cannot lay a secret bare."""
    record = changed(PROXIED, query=b"pad=%b&password=hunter2" % (b"x" * 5000), referer=b"http://h/?SECRET=hunter2")
    assert b"hunter2" not in line(record, format)


@for_each("format", FORMATS)
@for_each(
    ("path", "shown"),
    [
        (b"/q/7/x;access_token=eyJ.a/b", b"/q/7/x;access_token=***"),
        (b"/q;v=1;%74oken=eyJ/b", b"/q;v=1;%74oken=***"),
        (b"/q;v=1/token=2", b"/q;v=1/token=2"),
        (b"/q/token=eyJ/b", b"/q/token=***"),
        (b"/app;jsessionid=eyJ", b"/app;jsessionid=***"),
        (b"/tokens/x=1", b"/tokens/x=1"),
        (b"/cb&code=eyJ/b", b"/cb&code=***"),
        (b"/cb%3Fcode=eyJ/b", b"/cb%3Fcode=***"),
        (b"/cb%3Fcode%3DeyJ/b", b"/cb%3Fcode%3D***"),
        (b"/proxy/https://u:eyJ@h/b", b"/proxy/https://***@h/b"),
    ],
)
def test_a_secret_parameter_of_the_path_is_in_no_line(format: str, path: bytes, shown: bytes) -> None:
    written = line(changed(PROXIED, path=path), format)
    assert shown in written
    assert b"eyJ" not in written


@for_each("format", FORMATS)
@for_each("name", SECRET_NAMES)
def test_what_is_always_masked_is_so_in_each_place(format: str, name: str) -> None:
    """The path, the query, `Referer` with its fragment, and `User-Agent`."""
    said = name.upper().encode() + b"=planted"
    record = changed(
        PROXIED,
        path=b"/a;" + said,
        query=b"a=1&" + said,
        referer=b"https://h/a?b=1#c=2&" + said,
        user_agent=b"Bot/1.0 (+https://h/?" + said + b") Chrome/1",
    )
    written = line(record, format)
    assert b"planted" not in written
    assert written.count(b"=***") == {"common": 2, "gelf": 5}.get(format, 4)  # GELF shows the path in its message too
    assert format == "common" or re.search(rb"[ +]Chrome/1", written)


@pytest.mark.parametrize(
    ("user_agent", "shown"),
    [
        (b"Bot/1.0 (+https://h/?a=1&api_key=abc) Foo", b"Bot/1.0 (+https://h/?a=1&api_key=***) Foo"),
        (b"a token = abc x", b"a token =*** x"),
        (b"curl (key=abc, z)", b"curl (key=***, z)"),
        (b"a (https://u:p@h/a b@c)", b"a (https://***@h/a b@c)"),
        (b"Mozilla/5.0 (X11; Linux x86_64; rv:1)", b"Mozilla/5.0 (X11; Linux x86_64; rv:1)"),
        (b"My%20App/1 a=b", b"My%20App/1 a=b"),
    ],
)
def test_a_masked_value_among_words_ends_with_its_word(user_agent: bytes, shown: bytes) -> None:
    assert shown in line(changed(PROXIED, user_agent=user_agent), "combined")


@given(st.lists(st.sampled_from([b" ", b"\t", b"(", b")", b'"', b",", b"=", b"a", b"bc"]), max_size=14).map(b"".join))
def test_words_end_at_separators_but_around_an_equals_sign(text: bytes) -> None:
    """Compared with a pattern that says so plainly, and takes quadratic time."""
    plain = re.compile(rb"""((?<![=\s])[\s(),"'<>{}|]+(?!\s*=))""")
    assert formats.BETWEEN_WORDS.split(text) == plain.split(text)


@pytest.mark.parametrize("text", [b"%3D" * 1400, b"token%3D" * 500, b"://" * 1400, b"://%40" * 700, b"a=" * 2000])
def test_hostile_texts_take_no_time_that_grows_faster_than_they_do(text: bytes) -> None:
    """What is looked at again and again is bounded: calls are counted, not seconds."""
    module = "fastgw.observe.access_log.secret_names"
    with patch(f"{module}.unquote_to_bytes", wraps=unquote_to_bytes) as decoded:
        line(changed(PROXIED, query=text, path=b"/" + text, referer=text, user_agent=text))
    assert sum(len(call.args[0]) for call in decoded.call_args_list) < 4 * 20 * len(text)


PEER_BYTES = st.one_of(
    st.binary(max_size=20000),
    st.text(max_size=5000).map(str.encode),
    st.sampled_from([b"\0", b"\n", b'"', b"\\", b"\xff", "😀".encode(), "\x9b".encode()]).map(lambda unit: unit * 9000),
)


@pytest.mark.parametrize("format", FORMATS)
@given(data=st.data())
def test_every_record_is_one_line_of_bounded_length(format: str, data: st.DataObject) -> None:
    """Whatever peers send, a line ends once, at its end, and is valid in its format."""
    fields = ("method", "host", "path", "query", "request_id", "user_agent", "referer")
    ours = ("client", "consumer", "listener", "route")
    names = {name: data.draw(st.sampled_from(["a", "é" * 5000, 'b "c" [d]'])) for name in ours}
    written = line(changed(PROXIED, **{field: data.draw(PEER_BYTES) for field in fields}, **names), format)
    assert len(written) <= MAX_LINE
    assert written.find(b"\n") == len(written) - 1
    if format in ("combined", "common"):
        quoted = rb'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\x[0-9A-F]{2})*"'
        more = b" %b %b" % (quoted, quoted) if format == "combined" else b""
        assert re.fullmatch(rb".* - [^ ]+ \[[^]]*\] %b \d+ \d+%b\n" % (quoted, more), written)
    elif format == "w3c":
        assert len(written.decode().split(" ")) == 15
    else:
        name = {"json": "status", "ecs": "http.response.status_code", "gelf": "_status"}[format]
        assert orjson.loads(written)[name] == 201


def test_a_long_value_is_cut_with_a_mark() -> None:
    """The line stays whole; the reader sees that the value was not."""
    fields = orjson.loads(line(changed(PROXIED, path=b"/" + b"p" * 20000)))
    assert fields["path"].startswith("/ppp")
    assert fields["path"].endswith("p...")
    assert fields["referer"] == "https://app.example/login?code=***&next=1"


def test_bytes_that_are_no_text_are_escaped() -> None:
    """Invalid UTF-8 shows as what it was; nothing is replaced by a mark that hides it."""
    record = changed(PROXIED, path=b"/\xff\xc3\xa9", user_agent=b'a"\\\n\x7f\xc3\xa9')
    fields = orjson.loads(line(record))
    assert fields["path"] == "/\\xffé"
    assert fields["user_agent"] == 'a"\\\n\x7fé'
    assert line(record, "combined").endswith(b'"a\\x22\\x5C\\x0A\\x7F\\xC3\\xA9"\n')


@pytest.mark.parametrize("format", ["json", "ecs"])
def test_what_a_terminal_would_obey_is_escaped(format: str) -> None:
    """C1 controls, the line ends of Unicode, and what turns the direction of text around."""
    codes = [*range(0x80, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    beside = "\xa0\u2027\u202f\u2065\u206aé😀"
    written = line(changed(PROXIED, path="".join(map(chr, codes)).encode(), user_agent=beside.encode()), format)
    assert "".join(f"\\u{code:04x}" for code in codes).encode() in written
    assert beside.encode() in written
    assert orjson.loads(written)["path" if format == "json" else "url.path"] == "".join(map(chr, codes))


@pytest.mark.parametrize(
    ("date", "shown"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1767225599.9999, "2025-12-31T23:59:59.999Z"),
        (1.5, "1970-01-01T00:00:01.500Z"),
    ],
)
def test_times_are_utc_with_milliseconds(date: float, shown: str) -> None:
    """RFC 3339; cut, not rounded, so that a line is never dated later than it was written."""
    assert orjson.loads(line(changed(PROXIED, ended_date=date)))["time"] == shown


@given(st.one_of(st.floats(0.0, 1e7), st.integers(0, 10**9).map(lambda halves: halves * 5e-7)))
def test_durations_are_rounded_to_microseconds(seconds: float) -> None:
    record = Record(0.0, "", "public", b"GET", b"http", b"a", b"/", None, 11, 200, 0, 0, seconds, upstream_s=seconds)
    shown = orjson.loads(formats.json_line(record, lambda query: query))
    assert (shown["duration_s"], shown["upstream_s"]) == (round(seconds, 6), round(seconds, 6))


def test_a_long_query_is_read_no_further_than_a_line_can_show() -> None:
    """And a secret that the cut leaves without its end is masked like any other."""
    mask = masker(())
    names = b"&".join(b"n%d=1" % number for number in range(20_000))
    assert mask(names) == names[:MAX_LINE] + b"..."
    secret = b"a=" + b"x" * (MAX_LINE - 12) + b"&token=0123456789"
    masked = mask(secret)
    assert masked is not None
    assert masked.endswith(b"&token=***")


def test_what_filters_in_shadow_would_have_done_is_told_where_there_is_something() -> None:
    shadowed = msgspec.structs.replace(PROXIED, shadowed="ip: refuse 403 forbidden")
    mask = masker(())
    json_line, ecs_line = FORMATS["json"], FORMATS["ecs"]
    assert orjson.loads(json_line(shadowed, mask))["shadow"] == "ip: refuse 403 forbidden"
    assert "shadow" not in orjson.loads(json_line(PROXIED, mask))
    assert orjson.loads(ecs_line(shadowed, mask))["fastgw.shadow"] == "ip: refuse 403 forbidden"
    assert "fastgw.shadow" not in orjson.loads(ecs_line(PROXIED, mask))
