"""XML bodies: their mapping to JSON, by the keyword `xml` of schemas (`name`, `namespace`, `prefix`, `attribute`,
`wrapped`, and `nodeType` of OpenAPI 3.2).

The mapping is a list of nodes, which refer to each other by number, so that schemas may refer to themselves. Tags are
written as ElementTree has them: `{namespace}name`, with `*` as the namespace if any one is meant.
"""

from dataclasses import dataclass
from typing import Any, Final

from fastgw.config.openapi.kinds import combined_schemas, kind_of
from fastgw.config.openapi.schemas import Schemas

MOST_NODES: Final = 2000
"""Maximum number of nodes of a mapping."""
_TEXTS: Final = ("text", "cdata")
"""Values of `nodeType` for the text of an element."""


def is_xml(bare: str) -> bool:
    """Whether a content type is XML."""
    return bare in ("application/xml", "text/xml") or bare.endswith("+xml")


def xml_mapping(schemas: Schemas, raw: Any) -> dict[str, Any] | None:
    """Return the mapping of the documents of a schema, with more than `MOST_NODES` nodes if it is too large. None: the
    schema is about a text as a whole.
    """
    mapping = _Mapping(schemas)
    kind = kind_of(schemas, raw)
    if kind.shape == "scalar" and not _keywords(schemas, (raw,)):
        return None
    root = _naming(schemas, (raw,), "", "")
    reference = raw.get("$ref") if isinstance(raw, dict) else None
    name = root.name or (reference.rpartition("/")[2] if isinstance(reference, str) else "")
    node = mapping.number((raw,), root.inherited, name)
    return {"root": root.tag(name) if name else "", "node": node, "nodes": mapping.nodes}


@dataclass(frozen=True)
class _Naming:
    """Name and node type of a value in a document."""

    name: str
    namespace: str
    inherited: str
    """Namespace of the elements below it that have none themselves."""
    node_type: str
    """`element`, `attribute` or `text`."""
    is_wrapped: bool
    """Whether the elements of an array have an element around them."""

    def tag(self, name: str) -> str:
        return f"{{{self.namespace}}}{name}" if self.namespace else name


def _naming(schemas: Schemas, raws: tuple[Any, ...], name: str, inherited: str) -> _Naming:
    """Return the naming of the values of these schemas. `name`: without `xml.name`."""
    held: dict[str, Any] = {}
    for each in _keywords(schemas, raws):
        held = each | held
    kind = held.get("nodeType")
    node_type = (
        "text" if kind in _TEXTS else "attribute" if held.get("attribute") is True or kind == "attribute" else ""
    )
    own, prefix = held.get("namespace"), held.get("prefix")
    if isinstance(own, str):
        namespace, below = own, inherited if prefix else own
    elif isinstance(prefix, str) and prefix:
        namespace, below = "*", inherited
    else:
        namespace, below = "" if node_type == "attribute" else inherited, inherited
    named = held.get("name")
    return _Naming(
        name=named if isinstance(named, str) and named else name,
        namespace=namespace,
        inherited=below,
        node_type=node_type or "element",
        is_wrapped=held.get("wrapped") is True or kind == "element",
    )


def _keywords(schemas: Schemas, raws: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Return the keywords `xml` of these schemas, beside a reference before those that it leads to."""
    beside = [raw for raw in raws if isinstance(raw, dict) and "$ref" in raw]
    found = [each.get("xml") for each in (*beside, *_combined(schemas, raws))]
    return [each for each in found if isinstance(each, dict)]


def _combined(schemas: Schemas, raws: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [each for raw in raws for each in combined_schemas(schemas, raw)]


class _Mapping:
    """Nodes of a mapping, each made once."""

    def __init__(self, schemas: Schemas) -> None:
        self.nodes: list[dict[str, Any]] = []
        self._schemas = schemas
        self._numbers: dict[tuple[tuple[int, ...], str, str], int] = {}

    def number(self, raws: tuple[Any, ...], inherited: str, name: str) -> int:
        """Return the number of the node for an element whose value has these schemas."""
        followed = (self._schemas.followed(raw) for raw in raws)
        key = tuple(id(each) if each else 0 for each in followed), inherited, name
        if key in self._numbers:
            return self._numbers[key]
        number = self._numbers[key] = len(self.nodes)
        node: dict[str, Any] = {"shape": "scalar", "types": []}
        self.nodes.append(node)
        if len(self.nodes) > MOST_NODES:
            return number
        kind = kind_of(self._schemas, {"anyOf": [*raws]})
        node["shape"] = kind.shape
        if kind.shape == "scalar":
            node["types"] = [*kind.types]
        elif kind.shape == "array":
            node["item"] = self._item(raws, inherited, name)
        else:
            held = [each.get("additionalProperties") for each in _combined(self._schemas, raws)]
            others = tuple(each for each in held if isinstance(each, dict))
            if others:
                node["additional"] = self.number(others, inherited, "")
            node["members"] = [
                self._member(name, tuple(held), inherited) for name, held in self._properties(raws).items()
            ]
        return number

    def _properties(self, raws: tuple[Any, ...]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for each in _combined(self._schemas, raws):
            properties = each.get("properties")
            for name, held in properties.items() if isinstance(properties, dict) else ():
                found.setdefault(name, []).append(held)
        return found

    def _member(self, key: str, raws: tuple[Any, ...], inherited: str) -> dict[str, Any]:
        naming = _naming(self._schemas, raws, key, inherited)
        is_array = kind_of(self._schemas, {"anyOf": [*raws]}).shape == "array"
        member: dict[str, Any] = {"key": key, "node_type": naming.node_type}
        if is_array and not naming.is_wrapped and naming.node_type == "element":
            return member | {"node_type": "list", **self._item(raws, inherited, naming.name)}
        node = self.number(raws, naming.inherited, naming.name)
        return member | {"tag": naming.tag(naming.name), "node": node}

    def _item(self, raws: tuple[Any, ...], inherited: str, name: str) -> dict[str, Any]:
        """Return tag and node of the elements of an array. `name`: without `xml.name` of `items`."""
        items = tuple(each["items"] for each in _combined(self._schemas, raws) if "items" in each)
        naming = _naming(self._schemas, items, name, inherited)
        return {"tag": naming.tag(naming.name), "node": self.number(items, naming.inherited, naming.name)}
