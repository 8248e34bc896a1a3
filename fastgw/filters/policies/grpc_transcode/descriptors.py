"""Descriptor set: its services, their methods, and the HTTP rules that lead to them.

A set that has anything wrong is refused as a whole, with all that is wrong. Rule 1: nothing of a set reaches another
one: each has a pool of its own. Rule 2: rules are read by definitions of our own, whatever the set says that
google.api.HttpRule is. Imported only where the filter is configured: it needs `fastgw[grpc]`.
"""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from fastgw.filters.policies.grpc_transcode.json_input import WRAPPERS, JsonChecker
from fastgw.filters.policies.grpc_transcode.json_size import JsonSizes
from fastgw.filters.policies.grpc_transcode.templates import (
    PathTemplate,
    TemplateError,
    TemplateTable,
    parse_template,
)
from fastgw.http.grammar import IS_TOKEN

MOST_BYTES: Final = 16 * 1024 * 1024
"""Bytes of a descriptor set; the whole of Google's APIs has 13 MiB without comments."""
PROBLEMS_LISTED: Final = 10
WHOLE: Final = "*"
HTTP_BODY: Final = "google.api.HttpBody"
_RULE_NUMBER: Final = 72295728
"""Number of the extension `google.api.http` of method options."""
_KINDS: Final = ("get", "put", "post", "delete", "patch")
_HOW: Final = "make it with protoc --include_imports --descriptor_set_out=FILE"


class DescriptorError(ValueError):
    """Raised for a descriptor set that cannot be used. The text has a line for each problem."""


class Method(NamedTuple):
    """Method of a service."""

    name: str
    """Full name, as `package.Service/Method`."""
    path: bytes
    """Path of its calls."""
    input: Any
    """Class of its request messages."""
    output: Any
    """Class of its response messages."""
    client_streams: bool
    server_streams: bool


class BoundVariable(NamedTuple):
    """Variable of a path, with the fields that lead to it."""

    place: int
    """Index of the variable in the template."""
    fields: tuple[Any, ...]


class Binding(NamedTuple):
    """HTTP rule: which requests are calls of a method, and how they correspond."""

    method: Method
    http_method: bytes
    template: PathTemplate
    variables: tuple[BoundVariable, ...]
    body: Any
    """Field that the body is the value of; `WHOLE`: the body is the request message; None: there is no body."""
    response_body: Any
    """Field that the response body is the value of; None: the body is the response message."""

    @property
    def rule(self) -> str:
        return f"{self.http_method.decode('latin-1')} {self.template.text}"


class Api(NamedTuple):
    """HTTP API of a descriptor set."""

    table: TemplateTable[Binding]
    bindings: tuple[Binding, ...]
    pool: Any
    """Pool of its types, which `google.protobuf.Any` is resolved in."""
    checker: JsonChecker
    sizes: dict[tuple[bool, bool, bool], JsonSizes]
    """Sizes of JSON by its format."""

    @property
    def methods(self) -> int:
        return len({binding.method.name for binding in self.bindings})


def read_api(content: bytes, services: Sequence[str], auto_mapping: bool) -> Api:
    """Compile a descriptor set. `services`: full names of services; none = all of the set. `auto_mapping`: methods
    without a rule are reached by POST with the path of their calls. Raises `DescriptorError`.
    """
    if len(content) > MOST_BYTES:
        raise DescriptorError(f"the descriptor set has {len(content)} bytes; at most {MOST_BYTES} are read")
    files = _files_of(content)
    pool = _pool_of(files)
    chosen = _chosen(files, services)
    problems: list[str] = []
    bindings: list[Binding] = []
    for name, service in chosen:
        for method in service.method:
            bindings += _bindings_of(name, method, pool, auto_mapping, problems)
    table: TemplateTable[Binding] = TemplateTable()
    for binding in bindings:
        other = table.add(binding.template, binding.http_method, binding)
        if other is not None:
            one, two = f"{other.method.name} ({other.rule})", f"{binding.method.name} ({binding.rule})"
            problems.append(f"{one} and {two} take the same requests")
    if not bindings and not problems:
        problems.append(
            f"no method of {', '.join(name for name, _ in chosen)} has a google.api.http rule; "
            "add rules, or set `auto_mapping: true`"
        )
    if problems:
        raise _refused(problems)
    return Api(table, tuple(bindings), pool, JsonChecker(), {})


def _refused(problems: Sequence[str]) -> DescriptorError:
    shown = list(problems[:PROBLEMS_LISTED])
    if len(problems) > PROBLEMS_LISTED:
        shown.append(f"and {len(problems) - PROBLEMS_LISTED} more")
    return DescriptorError("; ".join(shown))


# the set


def _files_of(content: bytes) -> dict[str, Any]:
    """Return the files of a set by name, each after those that it imports."""
    try:
        decoded = descriptor_pb2.FileDescriptorSet.FromString(content)
    except DecodeError:
        decoded = None
    if decoded is None or not decoded.file or not all(file.name for file in decoded.file):
        raise DescriptorError(f"this is not a descriptor set; {_HOW}")
    given = {file.name: file for file in decoded.file}
    missing = sorted(
        {
            f'"{name}" (imported by "{file.name}")'
            for file in decoded.file
            for name in file.dependency
            if name not in given
        }
    )
    if missing:
        raise _refused([f"the descriptor set lacks {', '.join(missing[:PROBLEMS_LISTED])}; {_HOW}"])
    ordered: dict[str, Any] = {}
    for name in given:
        _add_in_order(name, given, ordered)
    return ordered


def _add_in_order(first: str, given: dict[str, Any], ordered: dict[str, Any]) -> None:
    entered = {first: iter(given[first].dependency)}
    while entered:
        name = next(reversed(entered))
        dependency = next((each for each in entered[name] if each not in ordered), None)
        if dependency is None:
            del entered[name]
            ordered[name] = given[name]
        elif dependency in entered:
            raise DescriptorError(f'the file "{dependency}" imports itself')
        else:
            entered[dependency] = iter(given[dependency].dependency)


def _pool_of(files: dict[str, Any]) -> Any:
    pool = descriptor_pool.DescriptorPool()
    for name, file in files.items():
        try:
            pool.AddSerializedFile(file.SerializeToString())
        except (TypeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DescriptorError(f'the file "{name}" of the descriptor set is invalid: {reason}') from error
    return pool


def _chosen(files: dict[str, Any], services: Sequence[str]) -> list[tuple[str, Any]]:
    there = {
        f"{file.package}.{service.name}" if file.package else service.name: service
        for file in files.values()
        for service in file.service
    }
    if not there:
        raise DescriptorError("the descriptor set has no service")
    unknown = [name for name in services if name not in there]
    if unknown:
        raise _refused([_unknown(name, there) for name in unknown])
    return [(name, there[name]) for name in services or there]


def _unknown(name: str, there: Iterable[str]) -> str:
    near = get_close_matches(name, there, 1)
    hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(sorted(there)[:PROBLEMS_LISTED])}"
    return f'the descriptor set has no service "{name}"; {hint}'


# rules


def _rule_reader() -> Any:
    """Return a class that reads the rules out of serialized method options."""
    file = descriptor_pb2.FileDescriptorProto(name="rules.proto", package="rules", syntax="proto3")
    custom = file.message_type.add(name="Custom")
    rule = file.message_type.add(name="Rule")
    options = file.message_type.add(name="Options")
    text, message = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    one, many = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    rule.oneof_decl.add(name="pattern")
    for number, name in ((1, "kind"), (2, "path")):
        custom.field.add(name=name, number=number, type=text, label=one)
    for number, name in ((2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "patch")):
        rule.field.add(name=name, number=number, type=text, label=one, oneof_index=0)
    rule.field.add(name="custom", number=8, type=message, type_name=".rules.Custom", label=one, oneof_index=0)
    for number, name in ((7, "body"), (12, "response_body")):
        rule.field.add(name=name, number=number, type=text, label=one)
    rule.field.add(name="additional", number=11, type=message, type_name=".rules.Rule", label=many)
    options.field.add(name="rule", number=_RULE_NUMBER, type=message, type_name=".rules.Rule", label=one)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("rules.Options"))


_Options: Final = _rule_reader()


def _bindings_of(service: str, method: Any, pool: Any, auto_mapping: bool, problems: list[str]) -> Iterator[Binding]:
    name = f"{service}/{method.name}"
    described = pool.FindServiceByName(service).methods_by_name[method.name]
    made = Method(
        name,
        f"/{name}".encode(),
        message_factory.GetMessageClass(described.input_type),
        message_factory.GetMessageClass(described.output_type),
        method.client_streaming,
        method.server_streaming,
    )
    try:
        options = _Options.FromString(method.options.SerializeToString())
    except DecodeError:
        problems.append(f"{name}: its google.api.http rule cannot be read")
        return
    rules = [options.rule, *options.rule.additional] if options.HasField("rule") else []
    if not rules and auto_mapping:
        template = parse_template(made.path.decode())
        yield Binding(made, b"POST", template, (), WHOLE, None)
    for rule in rules:
        try:
            yield _binding(made, rule, is_additional=rule is not rules[0])
        except TemplateError as error:
            problems.append(f"{name}: {error}")


def _binding(method: Method, rule: Any, is_additional: bool) -> Binding:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        raise TemplateError("a google.api.http rule without a path")
    if is_additional and rule.additional:
        raise TemplateError("additional_bindings within additional_bindings")
    if kind == "custom":
        http_method, path = rule.custom.kind, rule.custom.path
        if http_method != "*" and not IS_TOKEN(http_method.encode()):
            raise TemplateError(f'"{http_method}" is not a method of HTTP')
    else:
        http_method, path = kind.upper(), getattr(rule, kind)
    template = parse_template(path)
    input_type, output_type = method.input.DESCRIPTOR, method.output.DESCRIPTOR
    variables = []
    for place, variable in enumerate(template.variables):
        fields = _field_path(input_type, variable.field_path)
        if fields is None:
            raise TemplateError(f"{path}: {input_type.full_name} has no field {'.'.join(variable.field_path)}")
        if any(field.is_repeated for field in fields) or not is_leaf(fields[-1]):
            raise TemplateError(f"{path}: {'.'.join(variable.field_path)} is repeated or a message")
        variables.append(BoundVariable(place, fields))
    body: Any = None
    if rule.body == WHOLE:
        body = WHOLE
    elif rule.body:
        body = _top_field(input_type, rule.body, "body")
        if any(fields == (body,) for _, fields in variables):
            raise TemplateError(f"{path}: the field {rule.body} is in the path and in the body")
    response_body = _top_field(output_type, rule.response_body, "response_body") if rule.response_body else None
    return Binding(method, http_method.encode(), template, tuple(variables), body, response_body)


def _top_field(message: Any, name: str, setting: str) -> Any:
    field = message.fields_by_name.get(name)
    if field is None:
        raise TemplateError(f"`{setting}` is {name}, and {message.full_name} has no such field")
    return field


def field_of(message: Any, name: str) -> Any:
    """Return a field of a message by its name or its JSON name; None: there is none."""
    field = message.fields_by_name.get(name)
    return message.fields_by_camelcase_name.get(name) if field is None else field


def _field_path(message: Any, names: Sequence[str]) -> tuple[Any, ...] | None:
    fields: list[Any] = []
    for name in names:
        field = None if message is None else message.fields_by_name.get(name)
        if field is None:
            return None
        fields.append(field)
        message = field.message_type
    return tuple(fields)


_TEXTS: Final = frozenset(("google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"))
"""Messages that are a string in JSON."""


def is_leaf(field: Any) -> bool:
    """Whether a text can be the value of a field: of one that is not repeated."""
    message = field.message_type
    return message is None or message.full_name in WRAPPERS or message.full_name in _TEXTS
