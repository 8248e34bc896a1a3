"""The OpenAPI document whose loading is timed: as many operations as are said, and each request finds its own."""

from pathlib import Path

import pytest

from bench.openapi_load import described, loaded, written
from fastgw.explain import explain

MANY = 10_000


@pytest.mark.extended
def test_very_many_operations_are_loaded_and_each_request_finds_its_own(tmp_path: Path) -> None:
    gateway = loaded(written(tmp_path, MANY))
    assert len(gateway.routes) == MANY
    for method, path, operation in (
        ("GET", "/things0/7", "get0"),
        ("POST", "/things2500/7", "add2500"),
        ("GET", "/things4999/7?limit=100", "get4999"),
    ):
        assert explain(gateway, method, f"http://a.test{path}").route == operation
    assert explain(gateway, "GET", "http://a.test/things5000/7").route == ""
    refused = explain(gateway, "GET", "http://a.test/things4999/7?limit=101")
    assert any("400" in each for each in map(str, refused.filters))


@pytest.mark.extended
@pytest.mark.parametrize("operations", [1, 2, 3])
def test_the_document_has_as_many_operations_as_are_said(operations: int) -> None:
    assert sum(map(len, described(operations)["paths"].values())) == operations
