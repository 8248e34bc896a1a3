"""The admin API as its OpenAPI document tells it.

`openapi.json` is the contract: a change of it is a decision.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastgw import VERSION
from fastgw.admin.api import OPERATIONS
from tests.support.admin import served

GOLDEN = Path(__file__).with_name("openapi.json")


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    with served() as here:
        status, _, body = here.ask("GET /openapi.json")
    assert status == 200
    return json.loads(body)


def test_it_is_as_promised(told):
    assert told["info"]["version"] == VERSION
    assert {name: part for name, part in told.items() if name != "info"} == json.loads(GOLDEN.read_text())


def test_it_is_an_openapi_document(told):
    import openapi_spec_validator  # not by every process that collects this file: it takes 2 s

    openapi_spec_validator.validate(told, cls=openapi_spec_validator.OpenAPIV31SpecValidator)


def test_every_operation_is_in_it(told):
    described = {(method.upper(), path) for path, each in told["paths"].items() for method in each}
    assert described == {(each.method, each.path) for each in OPERATIONS}
