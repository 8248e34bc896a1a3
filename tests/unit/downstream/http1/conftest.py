"""Each test of this folder takes the compiled methods, and those of the reference."""

from __future__ import annotations

import pytest

from fastgw.downstream.http1.connection import Http1ClientConnection
from fastgw.upstream.forwarding.fast_path import FastPath
from tests.support.replaced import use_references


@pytest.fixture(autouse=True, params=["compiled", "reference"])
def methods(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "reference":
        use_references(monkeypatch, Http1ClientConnection, FastPath)
