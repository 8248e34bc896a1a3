"""Time to load an OpenAPI document with many operations: to check it, to make its routes, and to compile them.

    python -m bench.openapi_load --operations 10000

Each operation has parameters, and every second one a body of one of 100 schemas that refer to each other. Exit code 1:
it takes more than `--most` seconds.
"""

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import typer

from fastgw import config
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile as compile_tables
from fastgw.gateway.tables import Gateway

SCHEMAS: Final = 100


def described(operations: int) -> dict[str, Any]:
    """Return a document with this many operations: a GET and a POST on each path."""
    parameters = [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
        {"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 100}},
    ]
    answers = {"200": {"description": "ok"}}
    paths = {}
    for number in range((operations + 1) // 2):
        schema = {"$ref": f"#/components/schemas/S{number % SCHEMAS}"}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths[f"/things{number}/{{id}}"] = {
            "get": {"operationId": f"get{number}", "parameters": parameters, "responses": answers},
            "post": {
                "operationId": f"add{number}",
                "parameters": parameters,
                "requestBody": body,
                "responses": answers,
            },
        }
    if operations % 2:
        del paths[f"/things{operations // 2}/{{id}}"]["post"]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Things", "version": "1"},
        "paths": paths,
        "components": {"schemas": {f"S{number}": _schema(number) for number in range(SCHEMAS)}},
    }


def _schema(number: int) -> dict[str, Any]:
    properties = {
        "name": {"type": "string", "maxLength": 50},
        "n": {"type": "integer", "minimum": number},
        "next": {"$ref": f"#/components/schemas/S{(number + 1) % SCHEMAS}"},
    }
    return {"type": "object", "required": ["name"], "properties": properties}


def written(folder: Path, operations: int) -> Path:
    """Write a configuration with the routes of such a document, and return its file."""
    (folder / "things.json").write_text(json.dumps(described(operations)))
    file = folder / "gateway.json"
    routes = [{"openapi": {"file": "things.json", "upstream": "http://127.0.0.1:9"}}]
    listeners = {"main": {"address": "127.0.0.1:0"}}
    file.write_text(json.dumps({"version": 1, "listeners": listeners, "routes": routes}))
    return file


def loaded(file: Path) -> Gateway:
    """Load a configuration, and compile its tables."""
    found = config.load(str(file), TYPES)
    return compile_tables(found.config, 1, found.captured)


def main(
    operations: Annotated[int, typer.Option(min=1, help="Operations of the document.")] = 10_000,
    most: Annotated[float, typer.Option(help="Seconds that this may take.")] = 2.0,
) -> None:
    """Time the loading of an OpenAPI document with many operations."""
    with TemporaryDirectory() as folder:
        file = written(Path(folder), operations)
        began = time.process_time()
        found = config.load(str(file), TYPES)
        read = time.process_time()
        compile_tables(found.config, 1, found.captured)
        ended = time.process_time()
    parts = f"{read - began:.2f} to load, {ended - read:.2f} to compile"
    print(f"{operations} operations: {ended - began:.2f} s of CPU ({parts})")
    sys.exit(ended - began > most)


if __name__ == "__main__":
    typer.run(main)
