"""Tests with `methods` take the compiled methods of HTTP/2 connections and streams, and those of the reference."""

from __future__ import annotations

import pytest

from fastgw.http.http2.session import Session
from tests.support.replaced import use_references


@pytest.fixture(params=["compiled", "reference"])
def methods(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "reference" and Session is not None:
        from fastgw.upstream.connections.http2_connection import Http2UpstreamConnection, Http2UpstreamStream

        use_references(monkeypatch, Http2UpstreamConnection, Http2UpstreamStream)
