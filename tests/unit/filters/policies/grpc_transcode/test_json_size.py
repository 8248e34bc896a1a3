"""Counted sizes of JSON are never more than it has: a message that is allowed is not refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from hypothesis import given
from hypothesis import strategies as st

from fastgw.filters.policies.grpc_transcode.json_size import JsonSizes, JsonTooLarge

FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "double": FIELD.TYPE_DOUBLE,
    "wide": FIELD.TYPE_INT64,
    "unsigned_wide": FIELD.TYPE_UINT64,
    "narrow": FIELD.TYPE_SINT32,
    "flag": FIELD.TYPE_BOOL,
    "text": FIELD.TYPE_STRING,
    "raw": FIELD.TYPE_BYTES,
}
NAMES = {"LONG_NAME_OF_THE_DEFAULT": 0, "NIL": 0, "ONE": 1, "LONGER_NAME_OF_ONE": 1, "UNO": 1, "TWO": 2, "DOS": 2}
"""Names of an enum with aliases."""


def pool_of_examples() -> Any:
    """Return descriptors with a message that has a field of each kind, alone, repeated and in a map."""
    file = descriptor_pb2.FileDescriptorProto(name="examples.proto", package="examples", syntax="proto3")
    enum = file.enum_type.add(name="Aliased")
    enum.options.allow_alias = True
    for name, number in NAMES.items():
        enum.value.add(name=name, number=number)
    made = file.message_type.add(name="Example")

    def add(name: str, kind: Any, type_name: str | None = None, *, repeated: bool = False) -> None:
        label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
        made.field.add(name=name, number=len(made.field) + 1, label=label, type=kind, type_name=type_name)

    for name, kind in SCALARS.items():
        add(f"one_{name}", kind)
        add(f"many_{name}", kind, repeated=True)
    add("one_enum", FIELD.TYPE_ENUM, ".examples.Aliased")
    add("many_enum", FIELD.TYPE_ENUM, ".examples.Aliased", repeated=True)
    add("inner", FIELD.TYPE_MESSAGE, ".examples.Example")
    add("inners", FIELD.TYPE_MESSAGE, ".examples.Example", repeated=True)
    entry = made.nested_type.add(name="NamedEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=FIELD.LABEL_OPTIONAL, type=FIELD.TYPE_STRING)
    entry.field.add(
        name="value", number=2, label=FIELD.LABEL_OPTIONAL, type=FIELD.TYPE_ENUM, type_name=".examples.Aliased"
    )
    add("named", FIELD.TYPE_MESSAGE, ".examples.Example.NamedEntry", repeated=True)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


POOL = pool_of_examples()
EXAMPLE = message_factory.GetMessageClass(POOL.FindMessageTypeByName("examples.Example"))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "double": st.floats(),
    "wide": st.integers(-(2**63), 2**63 - 1),
    "unsigned_wide": st.integers(0, 2**64 - 1),
    "narrow": st.integers(-(2**31), 2**31 - 1),
    "flag": st.booleans(),
    "text": st.text(),
    "raw": st.binary(),
    "enum": st.integers(0, 3),
}


@st.composite
def examples(draw: Any, depth: int = 2) -> Any:
    message = EXAMPLE()
    for name in draw(st.sets(st.sampled_from([*VALUES]), max_size=3)):
        setattr(message, f"one_{name}", draw(VALUES[name]))
    for name in draw(st.sets(st.sampled_from([*VALUES]), max_size=3)):
        getattr(message, f"many_{name}").extend(draw(st.lists(VALUES[name], max_size=4)))
    message.named.update(draw(st.dictionaries(st.text(max_size=5), VALUES["enum"], max_size=3)))
    if depth:
        message.inners.extend(draw(st.lists(examples(depth - 1), max_size=2)))
        if draw(st.booleans()):
            message.inner.CopyFrom(draw(examples(depth - 1)))
    return message


def json_of(message: Any, preserves_names: bool, with_defaults: bool, enums_as_integers: bool) -> bytes:
    return orjson.dumps(
        json_format.MessageToDict(
            message,
            preserving_proto_field_name=preserves_names,
            always_print_fields_with_no_presence=with_defaults,
            use_integers_for_enums=enums_as_integers,
        )
    )


@given(examples(), st.booleans(), st.booleans(), st.booleans())
def test_no_more_is_counted_than_there_is(
    message: Any, preserves_names: bool, with_defaults: bool, enums_as_integers: bool
) -> None:
    written = json_of(message, preserves_names, with_defaults, enums_as_integers)
    sizes = JsonSizes(POOL, preserves_names, with_defaults, enums_as_integers)
    assert sizes.least(message, len(written)) <= len(written)


def test_a_value_that_is_shorter_than_the_default_counts_in_its_place() -> None:
    """Also while inner messages are counted, which come before it."""
    message = EXAMPLE(one_enum=1, inner=EXAMPLE(one_enum=1))
    written = json_of(message, True, True, False)
    sizes = JsonSizes(POOL, True, True, False)
    assert sizes.least(message, len(written)) <= len(written)


@pytest.mark.parametrize("number", range(3))
def test_an_enum_with_aliases_counts_by_the_name_that_is_written(number: int) -> None:
    message = EXAMPLE(many_enum=[number] * 100)
    written = json_of(message, True, False, False)
    sizes = JsonSizes(POOL, True, False, False)
    assert sizes.least(message, len(written)) == len(written) - len("[]")
    with pytest.raises(JsonTooLarge):
        sizes.least(message, len(written) - len("[]") - 1)
