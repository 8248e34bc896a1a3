"""Compiled change: the function from a body to the one that replaces it, for the settings of one direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from fastgw.filters.policies.transform.expressions import compile_jq, compile_jsonata
from fastgw.filters.policies.transform.forms import form_to_json, json_to_form, multipart_to_json
from fastgw.filters.policies.transform.json_mapping import JsonFunction, compile_mapping, compile_template, selected
from fastgw.filters.policies.transform.values import AT_ONCE, Variables
from fastgw.filters.policies.transform.xml_reading import compile_xml_input
from fastgw.filters.policies.transform.xml_writing import compile_xml_template
from fastgw.http.json.texts import check_text

if TYPE_CHECKING:
    from fastgw.filters.policies.transform.filter import BodyChange


def compile_change(change: BodyChange, most: int = AT_ONCE) -> JsonFunction:
    """Return the function for these settings. Raises `ValueError`. `most`: maximum number of values of a body that are
    opened one by one, above which the function raises `CostlyBody`.
    """
    mapped = _mapped(change, most)
    if change.input == "json" and change.output == "json":
        return mapped
    read = _READERS[change.input] if change.xml is None else compile_xml_input(change.xml)
    if change.xml_template is not None:
        build = compile_xml_template(change.xml_template, most)
        return lambda body, variables: build(mapped(read(body), variables), variables)
    write = json_to_form if change.output == "form" else _same
    return lambda body, variables: write(mapped(read(body), variables))


def _mapped(change: BodyChange, most: int) -> JsonFunction:
    if change.json is not None:
        return compile_mapping(change.json, most)
    if change.template is not None:
        return compile_template(change.template, most)
    if change.jq is not None:
        return compile_jq(change.jq)
    return _checked_only if change.jsonata is None else compile_jsonata(change.jsonata)


def _checked_only(body: bytes, variables: Variables) -> bytes:
    return selected(body, check_text)


def _same(body: bytes) -> bytes:
    return body


_READERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "json": _same,
    "form": form_to_json,
    "multipart": multipart_to_json,
}
"""Readers of the other formats of `input` than XML."""
