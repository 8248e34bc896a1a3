"""Documents in several files: what a reference leads to counts as if it were written in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastgw import config
from fastgw.filters import TYPES
from tests.unit.config.openapi.test_expand import KEY, SCHEMES, load, problems
from tests.unit.filters.policies.openapi.shop import Shop, document, operation, post

ADD = """\
operationId: add
security: [{jwt: [write]}]
x-fastgw: {filters: {rate_limit: {limit: 5, window: 1s}}}
parameters:
  - {$ref: "../shop.json#/components/parameters/n"}
requestBody:
  content:
    application/json: {schema: {$ref: "../models/a%20pet.yml#/Pet"}}
responses: {200: {description: ok}}
"""
PET = """\
Pet:
  type: object
  required: [kind]
  properties: {friend: {$ref: "#/Pet"}, value: {$ref: value.json}}
  discriminator: {propertyName: kind, mapping: {dog: dog.yml}}
  oneOf: [{$ref: dog.yml}]
"""


def write(folder: Path, add: str = ADD, pet: str = PET) -> dict[str, Any]:
    for name, text in {
        "paths/add.yml": add,
        "models/a pet.yml": pet,
        "models/dog.yml": "{type: object, properties: {bark: {type: boolean}}}",
        "models/value.json": '{"type": "integer", "example": {"$ref": "left as it is"}}',
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    n = {"name": "n", "in": "query", "schema": {"type": "integer"}}
    components = {"parameters": {"n": n}, "securitySchemes": SCHEMES}
    return document({"/pets": {"post": {"$ref": "paths/add.yml"}}}, "3.1.0", components=components)


def test_an_operation_in_another_file_has_all_that_is_written_there(tmp_path: Path) -> None:
    loaded = load(tmp_path, write(tmp_path), {"security": KEY})
    (route,) = loaded.config.routes
    assert (route.name, [*route.filters]) == ("add", ["rate_limit", "security.jwt", "openapi"])
    assert route.filters["security.jwt"].settings.scopes == ("write",)
    read = {Path(name).name for name in loaded.captured if name.startswith("/")}
    assert read == {"shop.json", "add.yml", "a pet.yml", "dog.yml", "value.json"}
    again = config.load_sources(loaded.sources, loaded.captured, TYPES)
    assert again.config == loaded.config


def test_an_operation_without_a_filter_for_its_security_is_an_error_wherever_it_is_written(tmp_path: Path) -> None:
    assert 'no filter for the security scheme "jwt"' in problems(tmp_path, write(tmp_path))
    described = document({"/a": {"get": {"$ref": "#/x-a"}}}, **{"x-a": operation(security=[{"jwt": []}])})
    described["components"] = {"securitySchemes": SCHEMES}
    assert 'no filter for the security scheme "jwt"' in problems(tmp_path, described)


def test_requests_are_checked_by_the_schemas_of_other_files(tmp_path: Path) -> None:
    add = "".join(line for line in ADD.splitlines(keepends=True) if not line.startswith(("security", "x-")))
    shop = Shop(tmp_path, write(tmp_path, add))
    for target, body, status in (
        ("/pets?n=1", {"kind": "dog", "bark": True, "friend": {"kind": "dog"}, "value": 1}, 204),
        ("/pets?n=x", {"kind": "dog"}, 400),
        ("/pets", {"kind": "dog", "bark": 1}, 400),
        ("/pets", {"kind": "cat"}, 400),
        ("/pets", {"kind": "dog", "friend": {}}, 400),
        ("/pets", {"kind": "dog", "value": "a"}, 400),
    ):
        assert shop.sends(post(target, json.dumps(body).encode())) == status, body


def test_a_request_needs_the_credentials_that_an_operation_in_another_file_requires(tmp_path: Path) -> None:
    add = ADD.replace("jwt: [write]", "key: []").replace("x-fastgw:", "x-other:")
    consumers = [{"name": "alice", "key_auth": [{"key": "alices-key-0123456789"}]}]
    settings = {"security": {"key": {"key_auth": {"key_names": ["X-Key"]}}}}
    shop = Shop(tmp_path, write(tmp_path, add), settings, consumers=consumers)
    request = post("/pets", b'{"kind": "dog"}')
    assert shop.sends(request) == 401
    assert shop.sends(request.replace(b"Host: a", b"Host: a\r\nX-Key: alices-key-0123456789")) == 204


@pytest.mark.parametrize(
    ("add", "pet", "expected"),
    [
        (ADD, PET.replace("object", "objec"), "models/a pet.yml:2:9: Pet.type: not valid JSON Schema"),
        (ADD, PET + "- a\n", "models/a pet.yml:7:1: "),
        (ADD, PET.replace("value.json", "../../a.json"), "models/a pet.yml:4:55: "),
        (ADD.replace("filters", "filter"), PET, "paths/add.yml:3:12: x-fastgw.filter: unknown key"),
        (ADD.replace("1s", "1"), PET, "paths/add.yml:3:53: x-fastgw.filters.rate_limit.window: "),
        (ADD.replace("/n", "/m"), PET, 'paths/add.yml:5:12: parameters[0]["$ref"]: "../shop.json#/components'),
    ],
)
def test_a_problem_has_the_position_in_the_file_where_it_stands(
    add: str, pet: str, expected: str, tmp_path: Path
) -> None:
    assert expected in problems(tmp_path, write(tmp_path, add, pet), {"security": KEY})


def test_a_document_that_has_been_made_of_files_is_one_like_others(tmp_path: Path) -> None:
    """The documentation has it so: each part of another file under a key of its own."""
    described = write(tmp_path, pet=PET.replace("value.json", '"../shop.json#/x-fastgw-files/v/Value"'))
    described["x-fastgw-files"] = {"v": {"Value": {"type": "integer"}}}
    described["paths"]["/own"] = {"get": {"$ref": "#/x-fastgw-files/v/Get"}}
    described["x-fastgw-files"]["v"]["Get"] = operation(operationId="own")
    names = [each.name for each in load(tmp_path, described, {"security": KEY}).config.routes]
    assert names == ["add", "own"]
    described["x-fastgw-files"]["v"]["Value"] = 5
    assert "shop.json:" in problems(tmp_path, described, {"security": KEY})


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (tmp_path / "secret.yml").write_text(ADD)
    described = write(folder)
    (folder / "paths/add.yml").unlink()
    (folder / "paths/add.yml").symlink_to(tmp_path / "secret.yml")
    assert '"paths/add.yml" is outside the folder of the document' in problems(folder, described)


def test_the_documentation_has_no_part_of_another_file_that_nothing_refers_to(tmp_path: Path) -> None:
    value = {
        "Own": {"anyOf": [{"type": "string", "title": "shown"}, {"title": "hidden"}]},
        "Other": {"title": "hidden"},
    }
    described = write(tmp_path, pet=PET.replace("value.json", "more.json#/Own/anyOf/0") + "Other: {title: hidden}\n")
    (tmp_path / "models/more.json").write_text(json.dumps(value))
    loaded = load(tmp_path, described, {"security": KEY, "docs": "/docs"})
    (page,) = [text.decode() for name, text in loaded.captured.items() if name.endswith("openapi.json")]
    assert page.count("shown") == 1
    assert "hidden" not in page
    files = json.loads(page)["x-fastgw-files"]
    assert [*files["models/a pet.yml"]] == ["Pet"]
    assert files["models/more.json"]["Own"]["anyOf"] == [value["Own"]["anyOf"][0], None]
