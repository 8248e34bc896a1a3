"""Failed and slow requests of all workers have stories in the admin API; others have none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import admin, read
from tests.e2e.test_reload import Reloadable
from tests.e2e.test_taps import ask
from tests.support.gateway import wait_until

CONFIG: dict[str, Any] = {
    "stories": {"slower_than": "200ms", "keep": 20},
    "upstreams": {"gone": {"targets": ["http://127.0.0.1:1", "http://127.0.0.1:2"]}},
    "routes": [
        {"name": "gone", "paths": ["/gone"], "upstream": "gone"},
        {"name": "fine", "paths": ["/fine"], "respond": {"body": "ok"}},
        {
            "name": "slow",
            "paths": ["/slow"],
            "filters": {"fault": {"delay": {"time": "300ms", "percent": "100%"}}},
            "respond": {"body": "ok"},
        },
        {
            "name": "broken",
            "paths": ["/broken"],
            "filters": {"fault": {"abort": {"status": 503, "percent": "100%"}}, "size": {"body": "1KiB"}},
            "respond": {"body": "ok"},
        },
    ],
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloadable]:
    with Reloadable(CONFIG, tmp_path_factory.mktemp("stories")) as started:
        # A worker may not know of the stories yet.
        wait_until(lambda: ask(started, "GET", "/gone") == 502 and read(started, "/stories")["kept"] > 0, "a story")
        yield started


def story_of(gateway: Reloadable, path: str) -> dict[str, Any]:
    """Ask until there is a story of the path, and return it."""

    def found() -> list[dict[str, Any]]:
        ask(gateway, "GET", path)
        return [each for each in read(gateway, "/stories")["stories"] if each["path"] == path.partition("?")[0]]

    wait_until(lambda: bool(found()), "a story")
    row = found()[0]
    story: dict[str, Any] = read(gateway, f"/stories/{row['request_id']}")
    assert story == read(gateway, f"/stories/{row['number']}")
    return story


@pytest.mark.landing
def test_a_failed_request_tells_its_attempts(gateway: Reloadable) -> None:
    story = story_of(gateway, "/gone?token=t&x=1")
    assert (story["reason"], story["status"], story["route"], story["query"]) == (
        *("error", 502, "gone"),
        "token=***&x=1",
    )
    faults = [(each["kind"], each["fault"], each["reused"]) for each in story["attempts"]]
    if story["fault"] == "connect_refused":  # otherwise both targets are ejected by now
        assert faults[0] == ("first", "connect_refused", False)
        assert all(each["begun_s"] <= each["ended_s"] for each in story["attempts"])
    assert read(gateway, "/stories?route=gone&status=5xx&reason=error&limit=1")["stories"][0]["route"] == "gone"
    assert read(gateway, "/stories?route=gone&status=404")["stories"] == []


@pytest.mark.landing
def test_a_slow_request_tells_which_filter_it_has_waited_for(gateway: Reloadable) -> None:
    story = story_of(gateway, "/slow")
    assert (story["reason"], story["status"], story["attempts"]) == ("slow", 200, [])
    waited = {each["name"]: each["waited_s"] for each in story["filters"]}
    assert waited["fault"] > 0.2
    assert waited["request_id"] is None


def test_a_filter_that_has_answered_is_told_from_those_that_were_not_reached(gateway: Reloadable) -> None:
    decisions = {each["name"]: each["decision"] for each in story_of(gateway, "/broken")["filters"]}
    assert decisions["fault"] == "answered"
    assert decisions["request_id"] == "passed"


def test_other_requests_have_no_story_and_the_oldest_are_forgotten(gateway: Reloadable) -> None:
    for _ in range(40):
        ask(gateway, "GET", "/fine")
        ask(gateway, "GET", "/broken")
    wait_until(lambda: read(gateway, "/stories")["stories"][-1]["path"] == "/broken", "the last story")
    kept = read(gateway, "/stories")
    assert kept["kept"] == 20
    assert "/fine" not in {each["path"] for each in kept["stories"]}
    assert admin(gateway, "GET /stories/1").status == 404
    assert admin(gateway, "GET /stories?limit=x").status == 400
    shown = gateway.command("stories", "--limit", "1")
    assert shown.stdout.startswith("number  time"), shown.stderr
    number = str(kept["stories"][0]["number"])
    assert "  fault: answered" in gateway.command("stories", number).stdout


def test_stories_begin_and_end_with_the_configuration(tmp_path: Path) -> None:
    with Reloadable({**CONFIG, "stories": None}, tmp_path) as gateway:
        assert admin(gateway, "GET /stories").status == 404
        gateway.change(stories={"keep": 5})
        gateway.reload()
        assert story_of(gateway, "/broken")["status"] == 503
        gateway.change(stories=None)
        gateway.reload()
        assert admin(gateway, "GET /stories").status == 404


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("limit=0", "limit must be a number from 1 to 1000"),
        ("limit=-1", "limit must be a number from 1 to 1000"),
        ("limit=1001", "limit must be a number from 1 to 1000"),
        ("longer_than=nan", "longer_than must be a number of seconds, such as 0.5"),
        ("longer_than=-1", "longer_than must be a number of seconds, such as 0.5"),
        ("status=9xx", '"9xx" is not a status; expected one such as 404 or 5xx'),
        ("reason=foo", "reason must be one of error, slow, debug"),
    ],
)
def test_a_selection_that_cannot_match_is_refused(gateway: Reloadable, query: str, expected: str) -> None:
    refused = admin(gateway, f"GET /stories?{query}")
    assert (refused.status, refused.json["detail"]) == (400, f"Invalid selection of stories: {expected}.")
