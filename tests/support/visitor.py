"""A browser without a display: it stores cookies by host and follows redirects, one step at a time."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

from tests.support.peer import DEADLINE

PAGE: Mapping[str, str] = {"Accept": "text/html,application/problem+json,*/*;q=0.8", "Sec-Fetch-Site": "none"}
"""Headers of a browser for a page whose address was typed."""


class Answer(NamedTuple):
    url: str
    status: int
    fields: http.client.HTTPMessage
    body: bytes

    @property
    def location(self) -> str:
        return urljoin(self.url, self.fields["Location"])

    @property
    def told(self) -> Any:
        return json.loads(self.body)

    @property
    def cookies(self) -> list[str]:
        return self.fields.get_all("Set-Cookie") or []


class Visitor:
    """`cookies`: stored ones, by host and port, then by name."""

    def __init__(self) -> None:
        self.cookies: dict[str, dict[str, str]] = {}

    def ask(self, url: str, method: str = "GET", form: Mapping[str, str] | None = None, **fields: str) -> Answer:
        """Request a page; `fields` replace headers: `Accept="*/*"`, `X_Name="…"`."""
        parts = urlsplit(url)
        kept = self.cookies.setdefault(parts.netloc, {})
        sent = {**PAGE, **{name.replace("_", "-"): value for name, value in fields.items()}}
        if kept and "Cookie" not in sent:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in kept.items())
        body = None
        if form is not None:
            method, body = "POST", urlencode(form)
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        connection = http.client.HTTPConnection(parts.netloc, timeout=DEADLINE)
        try:
            connection.request(method, f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}", body, sent)
            response = connection.getresponse()
            answer = Answer(url, response.status, response.headers, response.read())
        finally:
            connection.close()
        for line in answer.cookies:
            name, _, rest = line.partition("=")
            if "Max-Age=0" in rest or "01 Jan 1970" in rest:
                kept.pop(name, None)
            else:
                kept[name] = rest.partition(";")[0]
        return answer

    def follow(self, url: str, user: str = "", until: str = "") -> Answer:
        """Follow redirects, and sign in as `user` on the way; stop before a URL that begins with `until`."""
        answer = self.ask(url)
        for _ in range(12):
            if answer.status in (302, 303, 307):
                if until and answer.location.startswith(until):
                    return answer
                answer = self.ask(answer.location)
            elif user and b'name="password"' in answer.body:
                answer = self.ask(answer.url, form={"user": user, "password": f"of {user}"})
            else:
                return answer
        raise AssertionError(f"sent from place to place, the last time to {answer.location}")
