"""Stories in the admin API: `GET /stories` lists those that a client selects, `GET /stories/{id}` has all of one."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from fastgw.admin.analytics_query import read_number
from fastgw.admin.node_interface import Node
from fastgw.admin.responses import json_response
from fastgw.admin.tapped_request import check_status
from fastgw.capture.captured_exchange import matches_status
from fastgw.capture.story_record import Story

MOST_ROWS: Final = 1000
QUERY_PARAMETERS: Final[Mapping[str, str]] = {
    "route": "Stories of this route.",
    "status": "Stories with this status, or class of statuses, such as `5xx`.",
    "reason": "`error`, `slow` or `debug`.",
    "consumer": "Stories of this consumer.",
    "upstream": "Stories of this upstream.",
    "fault": "Stories with this fault.",
    "longer_than": "Stories of requests that took longer than this number of seconds.",
    "limit": "Maximum number of stories, at most 1000. Default: 100.",
}
REASONS: Final = ("error", "slow", "debug")
_DURATION: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?")
_ABSENT: Final = HTTPException(404, "No stories are kept; `stories` of the configuration begins them.")


class StoryRow(Struct, frozen=True):
    """Story in a list."""

    number: int
    date: float
    """End of the request, in epoch seconds."""
    duration_s: float
    reason: str
    method: str
    path: str
    status: int
    route: str | None
    consumer: str | None
    upstream: str | None
    target: str | None
    fault: str | None
    attempts: int
    request_id: str | None
    trace_id: str | None


class StoryList(Struct, frozen=True):
    """Selected stories, newest first."""

    stories: Sequence[StoryRow]
    kept: int
    """Number of all stories that are kept."""
    dropped: int
    """Number of stories that were not built or lost, because there were too many at a time."""


async def list_stories(node: Node, request: Request) -> Response:
    stories, asked = node.stories(), request.query_params
    if stories is None:
        raise _ABSENT
    try:
        longer_than = _least_duration(asked.get("longer_than", "0"))
        limit = read_number("limit", asked.get("limit", "100"), 1, MOST_ROWS)
        statuses = (asked["status"],) if "status" in asked else ()
        for status in statuses:
            check_status(status)
        if asked.get("reason", "error") not in REASONS:
            raise ValueError(f"reason must be one of {', '.join(REASONS)}")
    except ValueError as error:
        raise HTTPException(400, f"Invalid selection of stories: {error}.") from error
    wanted = {name: asked[name] for name in ("route", "reason", "consumer", "upstream", "fault") if name in asked}
    found = [
        story
        for story in stories
        if story.duration_s >= longer_than
        and matches_status(statuses, story.status)
        and all(getattr(story, name) == value for name, value in wanted.items())
    ]
    rows = [_row(story) for story in found[:limit]]
    return json_response(StoryList(rows, len(stories), node.stories_dropped()))


async def one_story(node: Node, request: Request) -> Response:
    stories, wanted = node.stories(), request.path_params["id"]
    if stories is None:
        raise _ABSENT
    for story in stories:
        if wanted in (story.request_id, story.trace_id, story.debug_id, str(story.number)):
            return json_response(story)
    raise HTTPException(404, "There is no such story: it may be forgotten, or the request neither failed nor slow.")


def _least_duration(text: str) -> float:
    if _DURATION.fullmatch(text) is None:
        raise ValueError("longer_than must be a number of seconds, such as 0.5")
    return float(text)


def _row(story: Story) -> StoryRow:
    shared = {name: getattr(story, name) for name in StoryRow.__struct_fields__ if name != "attempts"}
    return StoryRow(**shared, attempts=len(story.attempts))
