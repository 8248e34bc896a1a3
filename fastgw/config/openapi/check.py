"""Check that the schemas of a document can be compiled, with problems at the lines of the document."""

from typing import TYPE_CHECKING, Any

import msgspec

from fastgw.config.base.problems import Path
from fastgw.config.openapi.document import Spec
from fastgw.config.openapi.schemas import Schemas, whole

if TYPE_CHECKING:
    import jsonschema_rs


def check_schemas(spec: Spec, schemas: Schemas) -> None:
    """Report the schemas that are not JSON Schema, or have patterns that take more than linear time."""
    import jsonschema_rs

    options: dict[str, Any] = {
        "offline": True,
        "validate_formats": True,
        "pattern_options": jsonschema_rs.RegexOptions(),
        "mask": "",
    }
    inline = schemas.used
    try:
        distinct = {msgspec.json.encode(schema): schema for schema, _, _ in inline}
        jsonschema_rs.validator_for(whole(schemas), **options)
        jsonschema_rs.validator_for({"anyOf": [*distinct.values(), True]}, **options)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError):
        pass
    else:
        return
    registry_parts = [(schema, schemas.paths[number], number) for number, schema in schemas.definitions.items()]
    before = spec.problem_count
    for schema, path, holder in (*registry_parts, *inline):
        with spec.problems_of(holder):
            try:  # without the others: references are left out
                jsonschema_rs.validator_for(_without_references(schema), **options)
            except jsonschema_rs.ValidationError as error:
                _report(spec, path, error)
            except jsonschema_rs.ReferencingError as error:
                spec.report(path, str(error).partition("\n")[0])
    if spec.problem_count == before:
        spec.report((), "its schemas cannot be compiled together")


def _report(spec: Spec, path: Path, error: "jsonschema_rs.ValidationError") -> None:
    steps = tuple(error.instance_path)
    keyword = next((each for each in reversed(steps) if isinstance(each, str)), "")
    at = (*path, *steps)
    if keyword == "pattern" or "patternProperties" in steps:
        wrong = "the pattern is not valid, or takes more than linear time"
        spec.report(at, wrong, "expected a regular expression without look-around and back-references")
        return
    spec.report(
        at, f"not valid JSON Schema: `{keyword or error.kind.name}`", "expected a value that the keyword may have"
    )


def _without_references(schema: Any) -> Any:
    """Return a schema without its references."""
    if isinstance(schema, dict):
        return {
            key: _without_references(each) for key, each in schema.items() if key != "$ref" or not isinstance(each, str)
        }
    return [_without_references(each) for each in schema] if isinstance(schema, list) else schema
