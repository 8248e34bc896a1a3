"""What `fastgw explain` prints, as text and as JSON, for a request of each kind.

`explain/expected.txt` and `explain/expected.json` are the contract: a change of them is a decision.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.commands import ended

FOLDER = Path(__file__).parent / "explain"
REQUESTS = [
    ["GET", "http://api.example.com:8080/users/7?token=t&debug=1", "-H", "X-Old: 1", "-H", "Authorization: Bearer s"],
    ["GET", "http://a.example.org:8080/users/7", "-H", "X-Request-Id: mine", "--client", "192.0.2.7"],
    ["PUT", "http://api.example.com:8080/users/7", "-H", "Content-Length: 4096"],
    ["DELETE", "http://api.example.com:8080/users/7"],
    ["GET", "http://other.example:8080/users", "--client", "10.1.2.3", "-H", "X-Forwarded-For: 192.0.2.7"],
    ["GET", "http://other.example:8080/"],
    ["GET", "http://inner.example:8081/old/a/b"],
    ["POST", "http://inner.example/a", "--listener", "inner"],
    ["GET", "http://inner.example:8081/nowhere"],
    ["GET", "http://inner.example:8081/a", "-H", "X_Original_URL: /admin", "-H", "Proxy: http://evil.example"],
    ["TRACE", "http://inner.example:8081/a"],
    ["GET", "http://inner.example:8081/a/../../b"],
    ["GET", "http://api.example.com:8080/users;token=t/7"],
    ["GET", "http://other.example:8080//users?a=1"],
    ["GET", "http://inner.example:8081/a", "-H", "Transfer-Encoding: gzip"],
    ["GET", "http://inner.example:8081/careful"],
    ["POST", "http://inner.example:8081/careful", "-H", "Content-Length: 1"],
]
RANDOM = re.compile(r"\b[0-9a-f]{32}\b")  # request ids


def explained(*arguments: str) -> str:
    told = ended("explain", "gateway.yaml", *arguments, directory=FOLDER)
    assert (told.exit_code, told.stderr) == (0, "")
    return RANDOM.sub("<random>", told.stdout)


def as_text() -> str:
    return "\n".join(f"$ fastgw explain gateway.yaml {' '.join(each)}\n{explained(*each)}" for each in REQUESTS)


def as_json() -> list[object]:
    return [json.loads(explained(*each, "--format", "json")) for each in REQUESTS]


def test_people_are_told_one_topic_a_line():
    assert as_text() == (FOLDER / "expected.txt").read_text()


def test_programs_are_told_the_same_by_name():
    assert as_json() == json.loads((FOLDER / "expected.json").read_text())
