"""Objects of OpenAPI 3.0 to 3.2: their keys, and the objects or values under each key."""

from collections.abc import Mapping
from typing import Final

METHODS: Final = ("head", "get", "put", "post", "delete", "options", "patch", "trace")
"""Methods with a key in path items. HEAD comes first: a route for GET matches it, too."""
_EXAMPLES: Final = {"any": "example", "{example": "examples"}
_ENCODINGS: Final = {"{encoding": "encoding", "[encoding": "prefixEncoding", "encoding": "itemEncoding"}
_VALUE: Final = {
    "text": "description",
    "flag": "required deprecated allowEmptyValue explode allowReserved",
    "any": "style example",
    "schema": "schema",
    "{media type": "content",
    "{example": "examples",
}
_WRITTEN: Final[Mapping[str, Mapping[str, str]]] = {
    "document": {
        "any": "openapi $self jsonSchemaDialect externalDocs",
        "info": "info",
        "[server": "servers",
        "{path item": "paths webhooks",
        "components": "components",
        "[requirement": "security",
        "[tag": "tags",
    },
    "info": {"text": "title summary description termsOfService", "any": "version contact license"},
    "tag": {"text": "name summary description parent kind", "any": "externalDocs"},
    "server": {"text": "url name description", "{server variable": "variables"},
    "server variable": {"text": "description", "any": "enum default"},
    "components": {
        "{schema": "schemas",
        "{response": "responses",
        "{parameter": "parameters",
        "{example": "examples",
        "{request body": "requestBodies",
        "{header": "headers",
        "{security scheme": "securitySchemes",
        "{link": "links",
        "{callback": "callbacks",
        "{path item": "pathItems",
        "{media type": "mediaTypes",
    },
    "path item": {
        "text": "summary description",
        "operation": " ".join((*METHODS, "query")),
        "{operation": "additionalOperations",
        "[server": "servers",
        "[parameter": "parameters",
    },
    "operation": {
        "text": "summary description",
        "any": "tags externalDocs operationId",
        "flag": "deprecated",
        "[parameter": "parameters",
        "request body": "requestBody",
        "{response": "responses",
        "{callback": "callbacks",
        "[requirement": "security",
        "[server": "servers",
    },
    "parameter": {**_VALUE, "any": "name in style example"},
    "header": _VALUE,
    "request body": {"text": "description", "flag": "required", "{media type": "content"},
    "media type": {"schema": "schema itemSchema", **_EXAMPLES, **_ENCODINGS},
    "encoding": {
        "text": "contentType",
        "any": "style",
        "flag": "explode allowReserved",
        "{header": "headers",
        **_ENCODINGS,
    },
    "response": {"text": "summary description", "{header": "headers", "{media type": "content", "{link": "links"},
    "example": {"text": "summary description", "any": "value dataValue serializedValue externalValue"},
    "link": {"text": "operationRef operationId description", "any": "parameters requestBody", "server": "server"},
    "security scheme": {
        "text": "type description name in scheme bearerFormat openIdConnectUrl oauth2MetadataUrl",
        "any": "flows",
        "flag": "deprecated",
    },
}
OBJECTS: Final[Mapping[str, Mapping[str, str]]] = {
    name: {key: shape for shape, keys in written.items() for key in keys.split()} for name, written in _WRITTEN.items()
}
"""Keys of each object. `text`, `flag` and `any` are values; all else is an object, `[` is a list and `{` an object with
one for each name."""
VALUES: Final[Mapping[str, type]] = {"text": str, "flag": bool, "any": object}
MAPS: Final[Mapping[str, str]] = {"callback": "path item", "requirement": "any"}
"""Objects whose keys are names, with the objects under them."""
REFERABLE: Final = frozenset(
    {
        *("path item", "operation", "parameter", "header", "request body", "media type", "response", "example"),
        *("link", "callback", "security scheme", "schema"),
    }
)
"""Objects that may be given by `$ref`. OpenAPI has none for operations, but published documents do."""
WITH_EXTENSIONS: Final = frozenset(("paths", "responses"))
"""Keys of objects by name that may have extensions beside the names."""
PUBLISHED: Final = frozenset(
    {
        *("info", "tags", "externalDocs", "summary", "description", "deprecated", "example", "examples", "headers"),
        *("links", "callbacks", "webhooks", "allowReserved", "bearerFormat", "openIdConnectUrl", "oauth2MetadataUrl"),
    }
)
"""Keys that the gateway does not obey: they are published, and taken for mocks."""
ELSEWHERE: Final = frozenset(
    {
        *("security", "parameters", "requestBody", "responses", "content", "schema", "servers"),
        *("get", "put", "post", "patch", "delete"),
    }
)
"""Keys that would be obeyed in other objects, and are probably meant so wherever they are."""
SINCE_3_2: Final = frozenset(("query", "additionalOperations"))
"""Keys of path items that mean nothing before OpenAPI 3.2."""
