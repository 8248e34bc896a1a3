"""Lists of Eureka: an application without instances, and errors that only look like one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastgw.config.base.value_types import Url
from fastgw.config.settings.discovery import Eureka
from fastgw.config.settings.secrets import Secret
from fastgw.config.sources.followed_files import FollowedFile
from fastgw.discovery.eureka import EurekaList
from fastgw.discovery.http_client import ServiceAnswer, SourceFailed
from tests.support.on_loop import on_loop

URL: Any = Url("http", "registry.test", 80)
FILE = FollowedFile("eureka", "", "USERS", (("scheme", "http"),))
DELTA = b'{"applications":{"versions__delta":"1","apps__hashcode":"","application":[]}}'
ERROR_PAGE = b'{"status":404,"error":"Not Found","path":"/eureka/apps/USERS"}'
HTML = b"<html>404 Not Found</html>"


class Server:
    """Answers by path."""

    def __init__(self, **answers: tuple[int, bytes]) -> None:
        self._answers = answers
        self.requests: list[tuple[str, Any]] = []

    async def request(self, target: str, *, headers: Any, timeout: float) -> ServiceAnswer:
        self.requests.append((target, headers))
        status, body = self._answers[target.rpartition("/")[2]]
        return ServiceAnswer(status, {}, body)


def listed(server: Any, **settings: Any) -> EurekaList:
    return EurekaList(Eureka(address=URL, **settings), FILE, server, lambda secret: "s.word")


@pytest.mark.parametrize("page", [b"", ERROR_PAGE, HTML], ids=["none", "spring", "servlet"])
@on_loop
async def test_an_application_that_eureka_does_not_know_has_no_instances(page: bytes) -> None:
    """Whichever page of its container goes with the 404."""
    server = Server(USERS=(404, page), delta=(200, DELTA))
    found = await listed(server, username="gateway", password=Secret("s.word")).fetch()
    assert json.loads(found.content) == []
    (first, said), (second, said_too) = server.requests
    assert (first, second) == ("/apps/USERS", "/apps/delta")
    assert "Authorization" in dict(said)
    assert said == said_too


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, b"", "Eureka says 404, and 404 to /apps/delta"),
        (404, HTML, "Eureka says 404, and 404 to /apps/delta"),
        (403, b"", "Eureka says 404, and 403 to /apps/delta"),
        (200, HTML, "an invalid answer"),
        (200, b'{"application":{}}', "an invalid answer"),
    ],
)
@on_loop
async def test_a_404_that_is_not_of_eureka_is_an_error(status: int, body: bytes, why: str) -> None:
    """As of a proxy that has lost its backend: the last list stays in use."""
    with pytest.raises(SourceFailed, match=why):
        await listed(Server(USERS=(404, body), delta=(status, body))).fetch()
