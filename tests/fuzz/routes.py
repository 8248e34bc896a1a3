"""Route tables, and requests that nearly fit them. The content of a case is JSON; its texts stand for bytes."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tests.fuzz.comparison import Difference
from tests.support.match_order import Request, Route, expected, in_order, numbered

HOSTS = ["a.test", "b.test", "A.Test", "*.test", "*.a.test", "*.b.a.test", "x.a.test", "y.x.a.test", "[::1]", "test"]
MORE_HOSTS = [
    "",
    "a",
    ".test",
    "..test",
    "x..test",
    "[0:0::1]",
    "[::2]",
    "[",
    "a.test.",
    "z.test",
    "ab.test",
    "x" * 250,
]
SEGMENTS = ["a", "b", "users", "42", "", "ab", "A", "a%2Fb", "x" * 15, "x" * 16, "x" * 17, "x" * 300]
PARAMETERS = ["{id}", "{name}", "{rest:path}", "{id}", "{app}", "{kind}b", "4{kind}", "{kind}s{more}"]
REGEXES = ["~^/v[0-9]+/", "~a", "~/b$", "~^/users/(a|42)", "~.", "~^/$"]
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PURGE", "FROB"]
PAIRS = ("headers", "query")
QUERIES = [None, None, "", "a=1", "a=2&b", "b&a=1", "a=%31", "c"]


def write(random: Random) -> bytes:
    # Small vocabularies, so that much of a table is about the same hosts and paths.
    hosts, segments = random.sample(HOSTS, random.randint(1, 5)), random.sample(SEGMENTS, random.randint(2, 6))
    count = random.choice((0, 1, 2, 5, 10, 30, 70)) if random.random() < 0.99 else 300
    rules = [_rule(random, hosts, segments) for _ in range(count)]
    requests = [_request(random, hosts, segments, rules) for _ in range(40)]
    return json.dumps({"rules": rules, "requests": requests}).encode()


def _rule(random: Random, hosts: list[str], segments: list[str]) -> dict[str, Any]:
    return {
        "hosts": [] if random.random() < 0.4 else random.choices(hosts, k=random.choice((1, 1, 2))),
        "paths": [] if random.random() < 0.1 else [_pattern(random, segments) for _ in range(random.choice((1, 1, 2)))],
        "methods": [] if random.random() < 0.7 else _methods(random),
        "headers": [] if random.random() < 0.9 else [["X-A", random.choice("12")]],
        "query": [] if random.random() < 0.9 else [["a", random.choice("12")]],
    }


def _methods(random: Random) -> list[str]:
    if random.random() < 0.005:
        return [*(f"M{number}" for number in range(70)), "GET"]  # more than there are bits in a word
    return random.sample(METHODS, random.randint(1, 3))


def _pattern(random: Random, segments: list[str]) -> str:
    die = random.random()
    if die < 0.05:
        return random.choice(REGEXES)
    if die < 0.052:
        return "/a" * random.choice((31, 32, 33, 63, 64, 65, 300)) + random.choice(["", "/{id}", "/*"])
    parts = [random.choice(PARAMETERS if random.random() < 0.3 else segments) for _ in range(random.randint(0, 4))]
    return "/" + "/".join(parts + (["*"] if die < 0.3 else []))


def _request(random: Random, hosts: list[str], segments: list[str], rules: list[dict[str, Any]]) -> dict[str, Any]:
    pool = hosts if random.random() < 0.8 else HOSTS + MORE_HOSTS
    host = random.choice(pool).lower()
    path = "/" + "/".join(random.choices(segments, k=random.choice((0, 1, 2, 3, 4, 5, 40))))
    patterns = [pattern for rule in rules for pattern in rule["paths"] if pattern[0] == "/"]
    if patterns and random.random() < 0.6:
        pattern = random.choice(patterns).replace("*", random.choice(["", "a", "a/b"]))
        path = "/".join(random.choice(segments) if part[:1] == "{" else part for part in pattern.split("/"))
        path += random.choice(["", "", "", "", "/", "x", "/x", "%20"])
    if random.random() < 0.03:
        path = random.choice(["*", "", "//", "/" * 300, "/" + "x" * 70_000, "/\u00ff", "/v1/"])
    return {
        "host": host.replace("*", random.choice("xyab"), 1),
        "path": path,
        "method": random.choice(METHODS[:3] if random.random() < 0.7 else METHODS),
        "query": random.choice(QUERIES),
        "fields": {} if random.random() < 0.7 else {"x-a": random.choice(["1", "2", "3", "3, 2", "2\n1"])},
    }


def as_bytes(text: str) -> bytes:
    return text.encode("latin-1")


def _routes(rules: list[dict[str, Any]]) -> list[Route]:
    """Those rules that a configuration could have."""
    made = []
    for rule in rules:
        parts = {name: tuple(tuple(each) if name in PAIRS else each for each in rule[name]) for name in rule}
        route = Route("r", **parts)
        try:
            _ = route.conditions
        except ValueError:
            continue
        made.append(route)
    return made


def judge(content: bytes, seed: int) -> bool:
    """Whether a route was found. Raises `Difference`."""
    case = json.loads(content)
    routes = _routes(case["rules"])
    table = numbered(routes)
    any_found = False
    for asked in case["requests"]:
        host, path, method = (as_bytes(asked[name]) for name in ("host", "path", "method"))
        query = None if asked["query"] is None else as_bytes(asked["query"])
        fields: dict[bytes, Any] = {
            as_bytes(name): as_bytes(lines).split(b"\n") for name, lines in asked["fields"].items()
        }
        request = Request(path, host, method, query, fields)
        found, wanted = table.find(request), expected(routes, request)
        if found != wanted:
            raise Difference(f"{asked}: finds {found}, but is {wanted}")
        candidates = [each.route for each in table.candidates(request)]
        if candidates != in_order(routes, request):
            raise Difference(f"{asked}: the candidates are {candidates}, but should be {in_order(routes, request)}")
        any_found = any_found or found is not None
    return any_found
