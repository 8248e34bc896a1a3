"""Keywords of JSON Schema, and those that are probably misspelt.

JSON Schema ignores keywords that it does not know, so `requierd` allows what `required` would refuse. An unknown
keyword is misspelt only if it is similar to a known one and has a value that the known one may have: other
vocabularies have keywords of their own.
"""

from collections.abc import Iterator
from typing import Any, Final

from fastgw.config.base.problems import Path, nearest

_SCHEMA: Final = (dict, bool)
_COUNT: Final = (int,)
_NUMBER: Final = (int, float)
_ANY: Final = (object,)
_KEYWORDS: Final[dict[str, tuple[type, ...]]] = {
    **dict.fromkeys(("$schema", "$id", "$ref", "$anchor", "$dynamicRef", "$dynamicAnchor", "$comment", "id"), (str,)),
    **dict.fromkeys(("$recursiveRef", "format", "pattern", "title", "description"), (str,)),
    **dict.fromkeys(("contentEncoding", "contentMediaType"), (str,)),
    **dict.fromkeys(("if", "then", "else", "not", "contains", "propertyNames", "contentSchema"), _SCHEMA),
    **dict.fromkeys(("additionalItems", "additionalProperties"), _SCHEMA),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), _SCHEMA),
    "items": (*_SCHEMA, list),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems", "enum", "required", "examples"), (list,)),
    **dict.fromkeys(("properties", "patternProperties", "dependentSchemas", "$defs", "definitions"), (dict,)),
    **dict.fromkeys(("dependencies", "dependentRequired", "$vocabulary"), (dict,)),
    "type": (str, list),
    **dict.fromkeys(("multipleOf", "maximum", "minimum"), _NUMBER),
    **dict.fromkeys(("exclusiveMaximum", "exclusiveMinimum"), (*_NUMBER, bool)),
    **dict.fromkeys(("maxLength", "minLength", "maxItems", "minItems", "maxContains", "minContains"), _COUNT),
    **dict.fromkeys(("maxProperties", "minProperties"), _COUNT),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly", "$recursiveAnchor"), (bool,)),
    **dict.fromkeys(("const", "default"), _ANY),
}
"""The keywords of drafts 4 to 2020-12, with the types of their values."""
_OTHERS: Final = frozenset(
    {
        *("discriminator", "example", "externalDocs", "nullable", "xml"),  # OpenAPI
        *("tsType", "tsEnumNames", "enumNames"),  # json-schema-to-typescript
        *("allRequired", "anyRequired", "deepProperties", "deepRequired", "oneRequired", "patternRequired", "typeof"),
    }
)
"""Keywords of other vocabularies that are similar to those of JSON Schema."""
_HOLD_BY_NAME: Final = frozenset(("properties", "patternProperties", "dependentSchemas", "$defs", "definitions"))
"""Keywords whose values have a schema for each name."""
_HOLD_ONE: Final = frozenset(keyword for keyword, types in _KEYWORDS.items() if types[: len(_SCHEMA)] == _SCHEMA)
"""Keywords whose value is a schema."""
_HOLD_LISTS: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems", "items"))
"""Keywords whose values may be lists of schemas."""
_SIMILARITY: Final = 0.75
_LONGEST: Final = 30
MOST_MISSPELT: Final = 20
"""Maximum number of misspelt keywords that are found in a schema."""


def is_known(keyword: str) -> bool:
    """Whether a keyword is one of JSON Schema, of a vocabulary with similar ones, or an extension."""
    return keyword in _KEYWORDS or keyword in _OTHERS or keyword.startswith("x-")


def meant_by(keyword: str, value: Any) -> str | None:
    """Return the keyword that an unknown one is probably meant as; None: it is known, or of another vocabulary."""
    if is_known(keyword) or len(keyword) > _LONGEST:
        return None
    meant = nearest(keyword, _KEYWORDS, _SIMILARITY)
    if meant is None:
        return None
    types = _KEYWORDS[meant]
    is_of_type = types == _ANY or (bool in types if isinstance(value, bool) else isinstance(value, types))
    return meant if is_of_type else None


def misspelt_keywords(schema: Any) -> Iterator[tuple[Path, str]]:
    """Yield the first misspelt keywords of a schema: the path to each, and the keyword that is probably meant."""
    left = MOST_MISSPELT
    waiting: list[tuple[Path, Any]] = [((), schema)]
    while waiting and left:
        path, each = waiting.pop()
        if not isinstance(each, dict):
            continue
        below: list[tuple[Path, Any]] = []
        for keyword, value in each.items():
            at = (*path, keyword)
            meant = meant_by(keyword, value)
            if meant is not None and left:
                left -= 1
                yield at, meant
            below += _schemas_in(keyword if meant is None else meant, value, at)
        waiting += reversed(below)


def schemas_below(schema: Any) -> Iterator[tuple[Path, Any]]:
    """Yield the schemas directly in a schema, with the path to each."""
    for keyword, value in schema.items() if isinstance(schema, dict) else ():
        yield from _schemas_in(keyword, value, (keyword,))


def _schemas_in(keyword: str, value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if keyword in _HOLD_BY_NAME and isinstance(value, dict):
        yield from (((*path, name), held) for name, held in value.items())
    elif isinstance(value, list) and keyword in _HOLD_LISTS:
        yield from (((*path, index), held) for index, held in enumerate(value))
    elif keyword in _HOLD_ONE:
        yield path, value
