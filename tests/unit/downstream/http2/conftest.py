"""Each test of this folder takes the compiled methods of both classes, and those of the reference."""

from __future__ import annotations

import pytest

from fastgw.downstream.http2.connection import Http2ClientConnection, Http2Stream
from tests.support.replaced import use_references


@pytest.fixture(autouse=True, params=["compiled", "reference"])
def methods(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "reference":
        use_references(monkeypatch, Http2ClientConnection, Http2Stream)
