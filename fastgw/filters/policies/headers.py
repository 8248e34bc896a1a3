"""headers: set, add and remove headers of requests and responses."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Final
from weakref import ref

from msgspec import Meta

from fastgw.config.base.problems import suggest
from fastgw.config.base.route_patterns import parse_regex
from fastgw.config.base.value_types import FieldName, Name, Notation, parse_field_value
from fastgw.config.base.value_types import FieldValue as PlainValue
from fastgw.config.settings.gateway import NONE, FilterUse, Settings
from fastgw.config.settings.secrets import Elsewhere
from fastgw.filters.api import Env, Exchange, Fault, Filter, Hooks, Outcome, Phase, Secret, WarningContext
from fastgw.filters.api.warning_context import is_built_in
from fastgw.filters.authentication.templates import (
    VALUES,
    Unfit,
    Value,
    compiled,
    is_identity,
    maps_in,
    names_request,
    names_target,
    parameters,
    parse_template,
)
from fastgw.http.field_names import WRITTEN_HERE
from fastgw.http.fields import Fields, folded, without_fields
from fastgw.http.grammar import IS_VALUE
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.routing.requirements import regex_test

_OURS: Final = WRITTEN_HERE
_ANY: Final[dict[str, Any]] = {"type": "string"}
Names = Annotated[tuple[FieldName, ...], Meta(max_length=100)]
FieldTemplate = Annotated[
    str,
    Notation(
        "a single-line string with variables such as {NAME}, and {{ for a brace",
        lambda text: parse_template(parse_field_value(text)),
        _ANY,
    ),
]

FieldValue = FieldTemplate | Annotated[Secret, Elsewhere()]


class Edits(Settings):
    """Changes to the headers of a message, in this order: remove, set, add.

    For remove and set, `-` and `_` in names are equal: `X-User` also removes `X_User`, which CGI, WSGI and PHP cannot
    distinguish from it.
    """

    remove: Names = ()
    """Names of headers to remove."""
    set: Mapping[FieldName, FieldValue] = NONE
    """Headers to set, replacing others with the same name; `{env: NAME}` or `{file: path}` for a secret. Headers with
    these names from the sender are also removed if a value is missing."""
    add: Mapping[FieldName, FieldValue] = NONE
    """Headers to add, after those with the same name."""

    def __post_init__(self) -> None:
        for name in (*self.remove, *self.set, *self.add):
            if name.lower().encode() in _OURS:
                raise ValueError(f"`{name}` is a connection header, which is set by the gateway")

    def empty(self) -> bool:
        return not (self.remove or self.set or self.add)


class Map(Settings):
    """Table of values: the value of a header depends on another value."""

    source: FieldTemplate
    """Value to look up, such as `{header.X-Plan}`. A missing value is looked up as an empty one."""
    values: Annotated[Mapping[str, PlainValue], Meta(min_length=1, examples=["{gold: high}"])]
    """Result for each value: the value itself, exactly, or `~` and a regular expression (RE2), which matches anywhere
    unless anchored. An equal value takes precedence; regular expressions are tried in the order of the file."""
    default: PlainValue = ""
    """Result for any other value. Empty = the header is left out."""

    def __post_init__(self) -> None:
        for value in self.values:
            if value.startswith("~"):
                parse_regex(value[1:])


class Headers(Filter, name="headers", phase=Phase.TRANSFORM):
    """Change the headers of requests to the upstream and of responses: first remove, then set, then add.

    In values `{name}` is replaced by a value of the request: `{client_ip}`, `{scheme}`, `{host}`, `{method}`, `{path}`,
    `{query}`, `{request_id}`, `{listener}`, `{route}`, `{consumer.name}`, `{consumer.groups}`, `{claim.NAME}` of a
    verified token (`{claim.address.city}` for nested claims; `{claims.NAME}` is the same), and `{NAME}` or
    `{param.NAME}` for a path parameter; `{header.NAME}`, `{query.NAME}` and `{cookie.NAME}` of the client's request,
    which are missing if they are repeated with different values; `{tls.version}`, `{tls.cipher}` and `{tls.sni}` of the
    client's connection; `{tls.client_subject}`, `{tls.client_common_name}`, `{tls.client_fingerprint}`,
    `{tls.client_serial}` and `{tls.client_issuer}` of a verified client certificate (also without `client_`);
    `{proxy.alpn}`, `{proxy.authority}` and `{proxy.unique_id}` of a PROXY protocol header, version 2; `{uuid}`, a
    random one each time; `{latency}`, the seconds since the request began; `{upstream}` and `{target}`, which are
    known in responses; and `{map.NAME}`, the result of one of the `maps`. Lists are joined by commas. `{{` and `}}` are
    literal braces. If a value is missing or empty, or not allowed in a header, the header is left out; but if the
    consumer's identity is not allowed in a header, the request is answered 403.
    """

    request: Edits = Edits()
    """Changes to the request that is sent to the upstream."""
    response: Edits = Edits()
    """Changes to the response, whether it comes from the upstream or from the gateway."""
    maps: Mapping[Name, Map] = NONE
    """Tables of values by name, for `{map.NAME}`."""

    def __post_init__(self) -> None:
        for text in self._texts():
            for name in maps_in(text):
                if name not in self.maps:
                    raise ValueError(f"unknown map {name!r}; expected one of `maps`")
        if any(maps_in(each.source) for each in self.maps.values()):
            raise ValueError("the `source` of a map is another map; expected other variables")

    def warnings(self, context: WarningContext) -> Iterable[str]:
        used = {name for text in self._texts() for name in maps_in(text)}
        for name in self.maps:
            if name not in used:
                yield f"`maps.{name}` is unused: no value of this filter has {{map.{name}}}"
        for edit in (self.request.set, self.request.add):
            for name, value in edit.items():
                if isinstance(value, str) and names_target(value):
                    why = "{upstream} and {target} are known in responses only"
                    yield f"`request`: {name} is always left out: {why}"
        if not context.positions:
            return
        if self._any_value(names_request) and not any(_may_name_requests(use) for use in context.preceding):
            yield "no `request_id` filter runs before it: {request_id} is always empty"
        if self._any_value(is_identity) and not context.identified:
            yield "no filter before it authenticates the client: {consumer.…} and {claims.…} are always empty"

    def _texts(self) -> Iterator[str]:
        """Yield the values of both sides that may have variables."""
        for side in (self.request, self.response):
            for values in (side.set, side.add):
                yield from (value for value in values.values() if isinstance(value, str))

    def _any_value(self, what: Callable[[str], bool]) -> bool:
        """Whether any value contains this."""
        return any(map(what, (*self._texts(), *(each.source for each in self.maps.values()))))

    def build(self, env: Env) -> Hooks:
        maps = {name: _lookup(each) for name, each in self.maps.items()}
        to_request = _Edit(self.request, env, maps, strict=True)
        to_response = _Edit(self.response, env, maps, strict=False)

        def request(exchange: Exchange) -> Outcome:
            try:
                # Serialized lines are possible only if no later filter reads the headers. PERF: 1 us for a header with
                # the consumer's name; 3.5 with parsed headers, and 10 more for a head that is parsed and re-serialized
                # (CPython 3.11, micro/filters).
                if exchange.chain.request_steps[-1:] == (itself(),) and exchange.head.edited() is None:
                    to_request.in_lines(exchange)
                else:
                    to_request.take_over(exchange)
                    to_request(exchange.headers, exchange)
            except Unfit as unfit:
                return exchange.refuse(Fault.FORBIDDEN, why=str(unfit))
            return None

        itself = ref(request)  # weak, to avoid a reference cycle that the collector would never free after a reload

        def response(exchange: Exchange) -> None:
            assert exchange.response is not None
            to_response(exchange.response.headers, exchange)

        return Hooks(
            request=None if self.request.empty() else request,
            response=None if self.response.empty() else response,
        )

    def secret_names(self) -> Iterable[str]:
        """Return the names of headers that are secret by configuration, to hide their values."""
        edits = (self.request.set, self.request.add, self.response.set, self.response.add)
        return {name for each in edits for name, said in each.items() if isinstance(said, Secret)}

    def unknown_names(self, known: frozenset[str]) -> Iterable[tuple[tuple[str, ...], str, str]]:
        """Yield the positions of unknown variables, with the error and the expected form.

        `known`: the parameters of all paths that the filter may see.
        """
        for side in ("request", "response"):
            for edit in ("set", "add"):
                for field, text in getattr(getattr(self, side), edit).items():
                    for name in parameters(text) if isinstance(text, str) else ():
                        if name not in known:
                            yield (side, edit, field), _unknown(name), suggest(name, [*VALUES, *known])
        for key, table in self.maps.items():
            for name in parameters(table.source):
                if name not in known:
                    yield ("maps", key, "source"), _unknown(name), suggest(name, [*VALUES, *known])


def _unknown(name: str) -> str:
    return f"unknown variable {{{name}}}: no path of this route has such a parameter"


def _may_name_requests(use: FilterUse) -> bool:
    return use.type == "request_id" or not is_built_in(use.settings)


class _Edit:
    """Edits with names as bytes, and functions for the values. `strict`: the request is rejected if the consumer's
    identity is not allowed in a header.
    """

    __slots__ = ("_add", "_added", "_dropped", "_remove", "_set", "_strict", "_taken_over")

    def __init__(self, edits: Edits, env: Env, maps: Mapping[str, Value], strict: bool) -> None:
        self._strict = strict
        self._remove = tuple(name.encode() for name in edits.remove)
        self._set = tuple(_values(edits.set, env, maps, strict))
        self._add = tuple(_values(edits.add, env, maps, strict))
        self._dropped = frozenset(name.lower() for name in (*self._remove, *(name for name, _ in self._set)))
        self._taken_over = frozenset(map(folded, self._dropped))
        self._added = tuple((name + b": ", value) for name, value in (*self._set, *self._add))

    def in_lines(self, exchange: Exchange) -> None:
        """Add lines to a request whose headers are unchanged and not read later. Raises `Unfit`."""
        lines = b""
        for begin, value in self._added:
            held = value if isinstance(value, bytes) else value(exchange)
            if held is not None:
                lines += begin + held.strip(b" \t") + b"\r\n"
        if self._dropped:
            self.take_over(exchange)
            exchange.request_dropped |= self._dropped
        exchange.request_added += lines

    def take_over(self, exchange: Exchange) -> None:
        """Discard additions and removals of earlier filters for headers that are removed or set here."""
        added, dropped, ours = exchange.request_added, exchange.request_dropped, self._taken_over
        if added and ours:
            exchange.request_added = without_fields(added, ours)
        if dropped and ours:
            exchange.request_dropped = frozenset(name for name in dropped if folded(name) not in ours)

    def __call__(self, fields: Fields, exchange: Exchange) -> None:
        """Apply the changes. Raises `Unfit` for an identity that is not allowed in a header."""
        for name in self._remove:
            fields.remove(name)
        for name, value in self._set:
            held = value if isinstance(value, bytes) else value(exchange)
            if held is None:
                fields.remove(name)
            else:
                fields.set(name, held)
        for name, value in self._add:
            held = value if isinstance(value, bytes) else value(exchange)
            if held is None:
                continue
            if self._strict and folded(name) in map(folded, exchange.request_dropped):
                exchange.request_added += b"%b: %b\r\n" % (name, held.strip(b" \t"))  # others of this name are dropped
            else:
                fields.add(name, held)


def _lookup(table: Map) -> Value:
    """Return the function for the result of a map."""
    results = {key: value.encode() or None for key, value in table.values.items()}
    equal = {key.encode(): result for key, result in results.items() if not key.startswith("~")}
    patterns = [(regex_test(key[1:].encode()), result) for key, result in results.items() if key.startswith("~")]
    default = table.default.encode() or None
    source = compiled(table.source)

    def look_up(exchange: Exchange) -> bytes | None:
        try:
            value = (source if isinstance(source, bytes) else source(exchange)) or b""
        except Unfit:  # it is no key, and is not sent either
            return default
        if value in equal:
            return equal[value]
        return next((result for accepts, result in patterns if accepts(value)), default)

    return look_up


def _values(
    edits: Mapping[str, str | Secret], env: Env, maps: Mapping[str, Value], strict: bool
) -> Iterable[tuple[bytes, bytes | Value]]:
    for name, said in edits.items():
        if isinstance(said, Secret):
            yield name.encode(), _hidden(name, env.secret(said))
            continue
        value = compiled(said, maps)
        if not isinstance(value, bytes) and not (strict and is_identity(said)):
            value = _lenient(value, f"filter {env.instance}: {name}")
        yield name.encode(), value


def _hidden(name: str, secret: str) -> bytes:
    """Return a secret as a header value. Raises `ValueError` without the secret."""
    value = secret.encode()
    if IS_VALUE(value) is None or value != value.strip(b" \t"):
        raise ValueError(f"the secret for {name} is not a single line")
    return value


def _lenient(value: Value, where: str) -> Value:
    """Return the value without characters that are not allowed in a header; logged once."""
    warned = False

    def held(exchange: Exchange) -> bytes | None:
        nonlocal warned
        try:
            return value(exchange)
        except Unfit as unfit:
            if not warned:
                warned = True
                log_event(OperatorEvent.FILTER_VALUE_UNFIT, "%s is not set: %s (logged once)", where, unfit)
            return None

    return held
