"""headers: set, add, rename and remove headers of requests and responses."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import starmap
from typing import Annotated, Any, Final
from weakref import ref

from msgspec import Meta

from fastgw.config.base.value_templates import KnownNames, is_identity, maps_in, names_in, names_request
from fastgw.config.base.value_types import FieldName, Name
from fastgw.config.base.variables import MAP_PREFIX, OF_UPSTREAMS
from fastgw.config.settings.gateway import NONE, FilterUse, Settings
from fastgw.config.settings.secrets import Elsewhere
from fastgw.config.settings.value_maps import FieldTemplate, ValueMap, constant_source, is_whole
from fastgw.exchange.reply import NO_NAMES, Response, fields_in
from fastgw.filters.api import (
    Env,
    Exchange,
    Fault,
    Filter,
    Hooks,
    Outcome,
    Phase,
    RequestHook,
    ResponseHook,
    ResponseLines,
    Secret,
    SentFields,
    WarningContext,
)
from fastgw.filters.api.warning_context import is_built_in
from fastgw.filters.authentication.templates import Unfit, Value, compiled, look_up_in
from fastgw.http.field_names import FORWARDING, WRITTEN_HERE
from fastgw.http.fields import Fields, folded, without_fields
from fastgw.http.grammar import IS_VALUE
from fastgw.http.http1.serializer import names_alike
from fastgw.operator_events import OperatorEvent, log_event

_OURS: Final = WRITTEN_HERE
_SHARED: Final = frozenset(b"age cache-status date server-timing set-cookie via x-request-id".split())
"""Headers, `folded`, of which the gateway itself may add lines."""
Names = Annotated[tuple[FieldName, ...], Meta(max_length=100)]
FieldValue = FieldTemplate | Annotated[Secret, Elsewhere()]
_Values = tuple[tuple[bytes, Any], ...]
"""Names and values, or functions of an exchange that return them: one, or a list of several lines."""
BY_PRESENCE: Final = ("replace", "set_if_absent")
"""Changes that depend on whether the message has the header."""
_Lines = Callable[[Exchange], list[bytes]]
"""Function that returns the values of a header before the changes."""


class Edits(Settings):
    """Changes to the headers of a message. Each depends on the message as it was before all of them; `add` comes last.

    For all but `add` and `set_if_absent`, `-` and `_` in names are equal: `X-User` also removes `X_User`, which CGI,
    WSGI and PHP cannot distinguish from it.
    """

    remove: Names = ()
    """Names of headers to remove; of requests also the gateway's own `X-Forwarded-*`, `X-Real-IP` and `Forwarded`,
    except those for the events of a `websocket_api`."""
    rename: Annotated[Mapping[FieldName, FieldName], Meta(max_length=100)] = NONE
    """New names of headers, by their names in the message: all lines, in their order. Headers that have the new name
    already are removed, also if there is nothing to rename, so that the sender cannot write them."""
    set: Mapping[FieldName, FieldValue] = NONE
    """Headers to set, replacing others with the same name, also those that the route's `forwarded` writes, except for
    the events of a `websocket_api`; `{env: NAME}` or `{file: path}` for a secret. Headers with these names from the
    sender are also removed if a value is missing."""
    replace: Mapping[FieldName, FieldValue] = NONE
    """Headers to set as `set` does, but only in messages that have one with this name."""
    set_if_absent: Mapping[FieldName, FieldValue] = NONE
    """Headers to set only in messages without one with this name, such as defaults."""
    add: Mapping[FieldName, FieldValue] = NONE
    """Headers to add, after those with the same name."""

    def __post_init__(self) -> None:
        by_presence = (*self.rename, *self.replace, *self.set_if_absent)
        self._refuse_two_changes()
        for name in by_presence:
            if folded(name.encode()) in FORWARDING:
                raise ValueError(
                    f"`{name}` is written by the gateway when it forwards; expected `set` with a variable such as "
                    "{client_ip}"
                )
        for name in (*self.remove, *by_presence, *self.rename.values(), *self.set, *self.add):
            if name.lower() == "host":
                raise ValueError(
                    "`Host` cannot be changed by a filter; expected `host_header` of the upstream or route"
                )
            if name.lower().encode() in _OURS:
                raise ValueError(f"`{name}` is a connection header, which is set by the gateway")

    def _refuse_two_changes(self) -> None:
        """Raise `ValueError` for a header with two changes of which only one can be meant."""
        made: dict[bytes, str] = {folded(name.encode()): "remove" for name in self.remove}
        made |= {folded(name.encode()): "set" for name in self.set}
        rest = (("rename", self.rename), ("rename", self.rename.values()), ("replace", self.replace))
        for kind, names in (*rest, ("set_if_absent", self.set_if_absent)):
            for name in names:
                other = made.setdefault(folded(name.encode()), kind)
                if other != kind or (kind == "rename" and [*self.rename.values()].count(name) > 1):
                    raise ValueError(f"`{name}` is changed twice, by `{other}` and `{kind}`; expected one of them")

    def empty(self) -> bool:
        return not (self.remove or self.rename or any(values for _, values in self.written()))

    def written(self) -> Iterator[tuple[str, Mapping[str, str | Secret]]]:
        """Yield the changes that write values, with their keys."""
        yield "set", self.set
        yield "replace", self.replace
        yield "set_if_absent", self.set_if_absent
        yield "add", self.add


class Headers(Filter, name="headers", phase=Phase.TRANSFORM):
    """Change the headers of requests to the upstream and of responses: remove, rename, set and add.

    In values `{name}` is replaced by a value of the request: `{client_ip}`, `{scheme}`, `{host}`, `{method}`, `{path}`,
    `{query}`, `{request_id}`, `{listener}`, `{route}`, `{consumer.name}`, `{consumer.groups}`, `{claim.NAME}` of a
    verified token (`{claim.address.city}` for nested claims; `{claims.NAME}` is the same), and `{NAME}` or
    `{param.NAME}` for a path parameter; `{header.NAME}` and `{cookie.NAME}` of the request as filters have changed it
    so far (a header that a filter has removed is missing, and that of a filter replaces the client's; headers that
    `credentials` adds are not shown), and `{query.NAME}` of the client's request, which are missing if they are
    repeated with different values; `{tls.version}`, `{tls.cipher}` and `{tls.sni}` of the client's connection;
    `{tls.client_subject}`, `{tls.client_common_name}`, `{tls.client_fingerprint}`, `{tls.client_serial}` and
    `{tls.client_issuer}` of a verified client certificate (also without `client_`); `{proxy.alpn}`,
    `{proxy.authority}`, `{proxy.unique_id}`, `{proxy.tls_version}` and `{proxy.tls_cipher}` of a PROXY protocol header,
    version 2; `{uuid}`, a random one each time; `{latency}`, the seconds since the request began; `{time.unix}`,
    `{time.unix_ms}` and `{time.iso}` (`2026-01-31T09:30:00.123Z`), the current time; `{map.NAME}`, the result of one of
    the `maps`, of this filter or of the gateway; and in responses `{upstream}`, `{target}`, and
    `{response_header.NAME}`, a header as it was before these changes. Lists are joined by commas. `{{` and `}}` are
    literal braces. If a value is missing or empty, or not allowed in a header, the header is left out; but if the
    consumer's identity is not allowed in a header, the request is answered 403.
    """

    request: Edits = Edits()
    """Changes to the request that is sent to the upstream."""
    response: Edits = Edits()
    """Changes to the response, whether it comes from the upstream or from the gateway."""
    maps: Mapping[Name, ValueMap] = NONE
    """Tables of values by name, for `{map.NAME}` in this filter; they take precedence over those of the gateway with
    the same name."""

    def warnings(self, context: WarningContext) -> Iterable[str]:
        used = {name for text in self._texts() for name in maps_in(text)}
        for name in self.maps:
            if name not in used:
                yield f"`maps.{name}` is unused: no value of this filter has {{map.{name}}}"
            if self.maps[name].has_constant_source:
                yield f"`maps.{name}.source`: {constant_source(self.maps[name].source)}"
        for _, edit in self.request.written():
            for name, value in edit.items():
                if isinstance(value, str) and not OF_UPSTREAMS.isdisjoint(names_in(value)):
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
            for _, values in side.written():
                yield from (value for value in values.values() if isinstance(value, str))

    def _any_value(self, what: Callable[[str], bool]) -> bool:
        """Whether any value contains this."""
        return any(map(what, (*self._texts(), *(each.source for each in self.maps.values()))))

    def build(self, env: Env) -> Hooks:
        maps = {name: look_up_in(each) for name, each in self.maps.items()}
        to_request = _Edit(self.request, env, maps, strict=True)
        to_response = _Edit(self.response, env, maps, strict=False)

        def request(exchange: Exchange) -> Outcome:
            try:
                # Serialized lines are possible only if no later filter reads the headers. PERF: 1 us for a header with
                # the consumer's name; 3.5 with parsed headers, and 10 more for a head that is parsed and re-serialized
                # (CPython 3.11, micro/filters).
                steps = exchange.chain.request_steps
                if steps and steps[-1] is itself() and exchange.head.edited() is None:
                    to_request.in_lines(exchange)
                else:
                    to_request(exchange.headers, exchange)
            except Unfit as unfit:
                return exchange.refuse(Fault.FORBIDDEN, why=str(unfit))
            return None

        itself = ref(request)  # weak, to avoid a reference cycle that the collector would never free after a reload

        def response(exchange: Exchange) -> None:
            answer = exchange.response
            assert answer is not None
            # PERF: 73,000 instructions for a whole request; 175,000 with parsed headers, whose head is re-serialized
            # (CPython 3.11, callgrind, micro/response_cache).
            if answer.is_as_received and step() in exchange.chain.line_steps:
                to_response.in_lines_of(answer, exchange)
            else:
                to_response(answer.headers, exchange)

        step = ref(response)
        return Hooks(
            request=None if self.request.empty() else RequestHook(request, for_upstream=to_request.fixed is not None),
            response=None
            if self.response.empty()
            else ResponseHook(response, lines=to_response.response_lines, fields=to_response.fixed),
        )

    def secret_names(self) -> Iterable[str]:
        """Return the names of headers that are secret by configuration, to hide their values."""
        edits = (*self.request.written(), *self.response.written())
        return {name for _, each in edits for name, said in each.items() if isinstance(said, Secret)}

    def unknown_names(self, known: KnownNames) -> Iterable[tuple[tuple[str, ...], str, str]]:
        """Yield the positions of unknown variables, with the error and the expected form.

        `known`: the parameters of all paths that the filter may see, and the maps of the gateway.
        """
        own = frozenset(MAP_PREFIX + name for name in self.maps)
        sound = {name: table for name, table in self.maps.items() if is_whole(table)}
        late = frozenset(MAP_PREFIX + name for name, table in sound.items() if table.reads_response)
        needed = {name: each for name, each in known.needed.items() if name not in own}
        within = KnownNames(known.names | own, known.of_responses - own | late, needed)
        texts = [
            ((side, edit, field), text, side == "response")
            for side, edits in (("request", self.request), ("response", self.response))
            for edit, values in edits.written()
            for field, text in values.items()
        ]
        texts += [(("maps", name, "source"), table.source, True) for name, table in sound.items()]
        for steps, text, in_response in texts:
            for name in names_in(text) if isinstance(text, str) else ():
                if (problem := within.problem_of(name, in_response=in_response)) is not None:
                    yield steps, *problem
        for name, table in sound.items():
            for key, *wrong in table.unknown_groups():
                yield ("maps", name, "values", key), wrong[0], wrong[1]


def _may_name_requests(use: FilterUse) -> bool:
    return use.type == "request_id" or not is_built_in(use.settings)


class _Edit:
    """Edits with names as bytes, and functions for the values. `strict`: the request is rejected if the consumer's
    identity is not allowed in a header.
    """

    __slots__ = (
        "_add",
        "_added",
        "_chosen",
        "_dropped",
        "_identities",
        "_is_computed",
        "_joined",
        "_owned",
        "_remove",
        "_set",
        "_strict",
        "_taken_over",
        "fixed",
        "response_lines",
    )

    def __init__(self, edits: Edits, env: Env, maps: Mapping[str, Value], strict: bool) -> None:
        self._strict = strict
        lines_of = _request_lines if strict else _response_lines
        self._remove = tuple(name.encode() for name in (*edits.remove, *edits.rename, *edits.rename.values()))
        values = [
            *_values(edits.set, env, maps, strict),
            *(
                (name, _if_any(value, _or_twins(name, lines_of)))
                for name, value in _values(edits.replace, env, maps, strict)
            ),
        ]
        self._set: _Values = tuple({folded(name): (name, value) for name, value in values}.values())  # the last twin
        absent = _values(edits.set_if_absent, env, maps, strict)
        self._add: _Values = (
            *((new.encode(), _or_twins(name.encode(), lines_of)) for name, new in edits.rename.items()),
            *((name, _if_none(value, lines_of(name))) for name, value in absent),
            *_values(edits.add, env, maps, strict),
        )
        self._dropped = frozenset(name.lower() for name in (*self._remove, *(name for name, _ in self._set)))
        self._taken_over = frozenset(map(folded, self._dropped))
        # Forwarding headers of these names are the filter's, in place of the gateway's own lines.
        self._chosen = self._taken_over & FORWARDING if strict else NO_NAMES
        self._owned = frozenset(name for name in self._dropped if folded(name) in self._chosen)
        self._owned |= self._chosen | {b":" + name for name in self._chosen}
        self._dropped |= self._owned
        self._added = tuple((name + b": ", value) for name, value in (*self._set, *self._add))
        self._is_computed = not all(isinstance(value, bytes) for _, value in self._added)
        computed = {begin for begin, value in self._added if not isinstance(value, bytes)}
        self._identities = {begin for begin in computed if folded(begin[:-2]) == b"authorization"} if strict else set()
        self._joined = NO_NAMES, self._dropped
        names = {folded(begin.removesuffix(b": ")) for begin, _ in self._added} | self._taken_over
        self.response_lines: ResponseLines | None = None
        """The changes, if lines can make them."""
        self.fixed: SentFields | None = None
        """The changes, if they are the same for all messages."""
        if names.isdisjoint(_SHARED):
            self.response_lines = ResponseLines(names, reads=self._is_computed, replaces=True)
            if not self._is_computed:
                self.fixed = SentFields(self._dropped, b"".join(starmap(_line, self._added)))

    def in_lines_of(self, response: Response, exchange: Exchange) -> None:
        """Change a response by lines: its header was not parsed, and is not read later."""
        dropped, lines = self._dropped, self._lines_for(exchange)
        if dropped:
            if response.added:
                response.added = without_fields(response.added, self._taken_over)
            # One object for equal names, which the serializer recognizes.
            before = response.dropped
            if self._joined[0] is not before:
                self._joined = before, before | dropped
            response.dropped = self._joined[1]
        response.added += lines

    def in_lines(self, exchange: Exchange) -> None:
        """Add lines to a request whose headers are unchanged and not read later. Raises `Unfit`."""
        lines = self._lines_for(exchange)
        if self._dropped:
            if exchange.request_added or exchange.request_dropped:
                self.take_over(exchange)
            dropped = exchange.request_dropped
            exchange.request_dropped = dropped | self._dropped if dropped else self._dropped
        exchange.request_added += lines

    def _lines_for(self, exchange: Exchange) -> bytes:
        if self.fixed is not None:
            return self.fixed.added
        lines, identities = b"", self._identities
        for begin, value in self._added:
            held = value if type(value) is bytes else value(exchange)
            for each in _each(held):
                lines += _line(begin, each)
                if identities and begin in identities:
                    exchange.sends_client_authorization = True
        return lines

    def take_over(self, exchange: Exchange) -> None:
        """Discard additions and removals of earlier filters for headers that are removed or set here."""
        added, dropped, ours = exchange.request_added, exchange.request_dropped, self._taken_over
        if added and ours:
            exchange.request_added = without_fields(added, ours)
        if dropped and ours:
            exchange.request_dropped = frozenset(name for name in dropped if folded(name) not in ours)

    def __call__(self, fields: Fields, exchange: Exchange) -> None:
        """Apply the changes. Raises `Unfit` for an identity that is not allowed in a header."""
        set_, add = self._set, self._add
        if self._is_computed:  # first: values may depend on headers that are removed or replaced here
            set_, add = _computed(set_, exchange), _computed(add, exchange) if add else add
        if self._strict and (exchange.request_added or exchange.request_dropped):
            self.take_over(exchange)
        if self._chosen:
            exchange.request_dropped |= self._owned
        for name in self._remove:
            fields.remove(name)
        for name, held in set_:
            if held is None:
                fields.remove(name)
            else:
                fields.set(name, held)
                if self._chosen and folded(name) in self._chosen:
                    exchange.request_added += _line(name + b": ", held)  # that of the head is dropped, as the client's
                self._note_identity(name, exchange)
        for name, held in add:
            for each in _each(held):
                wanted = folded(name)
                is_dropped = self._strict and (wanted in FORWARDING or wanted in map(folded, exchange.request_dropped))
                if is_dropped:
                    exchange.request_added += _line(name + b": ", each)
                if not is_dropped or wanted in FORWARDING & fields.taken:  # if set in the head, they are sent from it
                    fields.add(name, each)
                self._note_identity(name, exchange)

    def _note_identity(self, name: bytes, exchange: Exchange) -> None:
        if self._identities and name + b": " in self._identities:
            exchange.sends_client_authorization = True


def _request_lines(name: bytes) -> _Lines:
    """Return the function for the values of a header of the request, as filters have changed it so far."""
    lower = name.lower()
    return lambda exchange: exchange.current_values(lower)


def _response_lines(name: bytes) -> _Lines:
    """Return the function for the values of a header of the response, as filters have changed it so far."""
    lower = name.lower()
    return lambda exchange: [] if exchange.response is None else exchange.response.sent_values(lower)


def _or_twins(name: bytes, lines_of: Callable[[bytes], _Lines]) -> _Lines:
    """Return the function for the values of a header, or, without one, those of headers whose names differ in
    punctuation only: they are removed with it.
    """
    lines, wanted = lines_of(name), folded(name)
    is_request = lines_of is _request_lines
    if wanted.isalnum():
        return lines

    def found(exchange: Exchange) -> list[bytes]:
        held = lines(exchange)
        if held:
            return held
        if is_request:
            added, dropped, _ = exchange.changes_for_others
            sent = [
                *(() if wanted in names_alike(dropped) else exchange.head.fields()),
                *fields_in(added),
            ]
        else:
            sent = [] if exchange.response is None else exchange.response.sent_fields()
        return [value for each, value in sent if folded(each) == wanted]

    return found


def _if_any(value: bytes | Value, lines: _Lines) -> Value:
    """Return the value for messages with such a header."""
    return lambda exchange: (value if isinstance(value, bytes) else value(exchange)) if lines(exchange) else None


def _if_none(value: bytes | Value, lines: _Lines) -> Value:
    """Return the value for messages without such a header."""
    return lambda exchange: None if lines(exchange) else (value if isinstance(value, bytes) else value(exchange))


def _each(held: bytes | list[bytes] | None) -> Iterable[bytes]:
    """Return the lines of a value."""
    if held is None:
        return ()
    return (held,) if isinstance(held, bytes) else held


def _line(begin: bytes, value: bytes) -> bytes:
    return begin + value.strip(b" \t") + b"\r\n"


def _computed(values: _Values, exchange: Exchange) -> _Values:
    return tuple([(name, value if type(value) is bytes else value(exchange)) for name, value in values])


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
