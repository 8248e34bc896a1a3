"""Documents, and a data plane with the routes that are made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.memory import Plane

PET: dict[str, Any] = {
    "type": "object",
    "required": ["id", "name"],
    "properties": {
        "id": {"type": "integer", "format": "int64", "readOnly": True},
        "name": {"type": "string", "maxLength": 20, "example": "Rex"},
        "secret": {"type": "string", "writeOnly": True},
        "nick": {"type": "string", "nullable": True},
        "friends": {"type": "array", "items": {"$ref": "#/components/schemas/Pet"}},
    },
    "additionalProperties": False,
}


def operation(**said: Any) -> dict[str, Any]:
    return {"responses": {"200": {"description": "ok"}}, **said}


def json_body(schema: Any, **more: Any) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}, **more}


def document(paths: dict[str, Any], version: str = "3.0.3", **more: Any) -> dict[str, Any]:
    return {"openapi": version, "info": {"title": "Shop", "version": "1"}, "paths": paths, **more}


class Shop:
    """A data plane with the routes of a document, and what becomes of one request after the other."""

    def __init__(
        self, folder: Path, described: dict[str, Any], settings: dict[str, Any] | None = None, **more: Any
    ) -> None:
        self.file = folder / "shop.json"
        self.file.write_text(json.dumps(described))
        self.settings = {"file": str(self.file), "upstream": "u", **(settings or {})}
        self.plane = Plane({"routes": [{"openapi": self.settings}], **more})
        self.forwarded = b""

    def sends(self, request: bytes, answer: bytes = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n") -> int:
        """Send a request and return the status of the response."""
        client = self.plane.client()
        client.sends(request)
        self.forwarded = b""
        if self.plane.pool.waiting:
            upstream = self.plane.connects()
            self.forwarded = upstream.received
            upstream.sends(answer)
        self.received = client.received
        return int(client.received.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[2]

    @property
    def errors(self) -> list[tuple[str, str, str]]:
        return [(each["in"], each["pointer"], each["keyword"]) for each in json.loads(self.body)["errors"]]


def get(target: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


def post(target: str, body: bytes, kind: str = "application/json") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
