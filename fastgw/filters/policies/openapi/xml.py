"""XML bodies by the keyword `xml` of schemas: a document becomes the JSON value that its schema is about.

Rule: nothing is guessed about names, lists or types: they are those of the plan (`config.openapi.xml_bodies`). Elements
and attributes that no property names become members with their local names, so that the schema decides about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final
from xml.etree.ElementTree import Element

from fastgw.filters.policies.content.parameter_pairs import Unreadable
from fastgw.filters.policies.content.schemas import converted
from fastgw.filters.policies.transform.values import UnmappableBody
from fastgw.filters.policies.transform.xml_reading import parse_xml

MOST_PARTS: Final = 2500
"""Maximum number of elements and attributes of a document: 4.5 ms in the event loop."""
_INSTANCE: Final = "{http://www.w3.org/2001/XMLSchema-instance}"
_XML: Final = "{http://www.w3.org/XML/1998/namespace}"
_BOOLEANS: Final = {"1": True, "0": False}
_SPACE: Final = " \t\r\n"


@final
class XmlDocument:
    """Reader of XML documents."""

    __slots__ = ("_nodes", "_root", "_root_node")

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._root: str = plan["root"]
        self._root_node: int = plan["node"]
        self._nodes = [_Node(each) for each in plan["nodes"]]

    def value(self, payload: bytes) -> Any:
        """Return the value of a document. Raises `Unreadable`."""
        root = xml_element(payload)
        if self._root and self._root not in (root.tag, f"{{*}}{_local_name(root.tag)}"):
            raise Unreadable("xml", f"expected the element {self._root}")
        return self._value(self._root_node, root)

    def _value(self, number: int, element: Element) -> Any:
        if element.get(f"{_INSTANCE}nil") in ("true", "1"):
            return None
        node = self._nodes[number]
        if node.shape == "scalar":
            if len(element):
                if node.types:
                    raise Unreadable("xml", "expected text in place of elements")
                return {}  # of any type
            return _scalar(element.text or "", node.types)
        return self._elements(node, element) if node.shape == "array" else self._object(node, element)

    def _elements(self, node: _Node, element: Element) -> list[Any]:
        if node.item is None or _has_text(element):
            raise Unreadable("xml", "expected elements and no text")
        made = []
        for child in element:
            if node.item["tag"] not in (child.tag, f"{{*}}{_local_name(child.tag)}"):
                raise Unreadable("xml", f"expected elements {node.item['tag']} only")
            made.append(self._value(node.item["node"], child))
        return made

    def _object(self, node: _Node, element: Element) -> dict[str, Any]:
        made: dict[str, Any] = {}
        others: dict[str, Any] = {}
        rest = None if node.additional is None else self._nodes[node.additional]
        for name, text in element.attrib.items():
            member = node.attributes.get(name) or node.attributes.get(f"{{*}}{_local_name(name)}")
            if member is not None:
                _add(made, member["key"], _scalar(text, self._nodes[member["node"]].types))
            elif not name.startswith((_INSTANCE, _XML)):
                _add(others, _local_name(name), text if rest is None else _scalar(text, rest.types))
        for child in element:
            member = node.elements.get(child.tag) or node.elements.get(f"{{*}}{_local_name(child.tag)}")
            if member is None:
                held = (child.text or "") if node.additional is None else self._value(node.additional, child)
                _add(others, _local_name(child.tag), held)
                continue
            key, value = member["key"], self._value(member["node"], child)
            if member["node_type"] == "list":
                made.setdefault(key, []).append(value)
            else:
                _add(made, key, value)
        if node.text is not None:
            made[node.text["key"]] = _scalar(element.text or "", self._nodes[node.text["node"]].types)
        elif _has_text(element):
            raise Unreadable("xml", "expected elements and no text")
        if not node.keys.isdisjoint(others):
            raise Unreadable("xml", "expected elements, attributes and namespaces as in the schema")
        return made | others


def _add(made: dict[str, Any], key: str, value: Any) -> None:
    if key in made:
        raise Unreadable("repeated", "expected each element and attribute once")
    made[key] = value


@final
class _Node:
    """An element: its shape, and the places of its members."""

    __slots__ = ("additional", "attributes", "elements", "item", "keys", "shape", "text", "types")

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.shape: str = plan["shape"]
        self.types = tuple(plan.get("types", ()))
        self.item: Mapping[str, Any] | None = plan.get("item")
        self.additional: int | None = plan.get("additional")
        members = plan.get("members", ())
        self.keys = frozenset(each["key"] for each in members)
        self.attributes = {each["tag"]: each for each in members if each["node_type"] == "attribute"}
        self.elements = {each["tag"]: each for each in members if each["node_type"] in ("element", "list")}
        self.text: Mapping[str, Any] | None = next((each for each in members if each["node_type"] == "text"), None)


def xml_element(payload: bytes) -> Element:
    """Return the document element. Raises `Unreadable`: so does a document type declaration, for its entities."""
    if payload.count(b"<") // 2 + payload.count(b"=") > MOST_PARTS:
        raise Unreadable("xml", f"expected at most {MOST_PARTS:,} elements and attributes")
    try:
        return parse_xml(payload)
    except UnmappableBody as error:
        raise Unreadable("xml", str(error)) from error


def _scalar(text: str, types: tuple[str, ...]) -> Any:
    if "string" in types:
        return converted(text, types)
    bare = text.strip(_SPACE)
    if bare in _BOOLEANS and "boolean" in types and "integer" not in types and "number" not in types:
        return _BOOLEANS[bare]
    return converted(bare, types)


def _has_text(element: Element) -> bool:
    texts = (element.text, *(child.tail for child in element))
    return any(text is not None and text.strip(_SPACE) for text in texts)


def _local_name(tag: str) -> str:
    return tag.rpartition("}")[2]
