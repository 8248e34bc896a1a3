"""query_parameters: remove, rename, set and add parameters of the query."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Final, final
from urllib.parse import quote

from msgspec import Meta

from fastgw.config.base.value_templates import KnownNames, is_identity, names_in, parse_template
from fastgw.config.base.value_types import Notation
from fastgw.config.settings.gateway import NONE
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.filters.api import Env, Exchange, Fault, Filter, Hooks, Outcome, Phase
from fastgw.filters.authentication.templates import Unfit, Value, compiled
from fastgw.http.percent_encoding import decode_form_text

_MOST: Final = 100
ParameterName = Annotated[str, Meta(min_length=1)]
Template = Annotated[
    str,
    Notation("a string with variables such as {NAME}, and {{ for a brace", parse_template, {"type": "string"}),
]


class QueryParameters(Filter, name="query_parameters", phase=Phase.TRANSFORM):
    """Change the parameters of the query that is sent to the upstream: first remove, then rename, set and add.

    Parameters that are not named here stay as the client has sent them, byte by byte. Names are compared decoded, so
    that `%64ebug` is `debug`. In values, variables are those of the `headers` filter, path parameters without the
    escapes of the path; they are percent-encoded, so that a value is always one value. If a value is missing or empty,
    the parameter is left out; if the consumer's identity cannot be written, the request is answered 403.
    """

    remove: Annotated[tuple[ParameterName, ...], Meta(max_length=_MOST)] = ()
    """Names of parameters to remove."""
    rename: Annotated[Mapping[ParameterName, ParameterName], Meta(max_length=_MOST)] = NONE
    """New names of parameters, by their names in the request. Values and positions stay. A parameter that has the new
    name already is removed, so that the client cannot send a second value."""
    set: Annotated[Mapping[ParameterName, Template], Meta(max_length=_MOST)] = NONE
    """Parameters to set, after the others; those of the client with these names are removed, also if a value is
    missing."""
    add: Annotated[Mapping[ParameterName, Template], Meta(max_length=_MOST)] = NONE
    """Parameters to add, after those with the same name."""

    def __post_init__(self) -> None:
        if not (self.remove or self.rename or self.set or self.add):
            raise ValueError("expected at least one of `remove`, `rename`, `set` and `add`")
        if len(set(self.rename.values())) < len(self.rename):
            raise ValueError("two parameters are renamed to the same name; expected different names")

    def build(self, env: Env) -> Hooks:
        return Hooks(request=_Change(self).request)

    def unknown_names(self, known: KnownNames) -> Iterable[tuple[tuple[str, ...], str, str]]:
        """Yield the positions of unknown variables, with the error and the expected form."""
        for edit, values in (("set", self.set), ("add", self.add)):
            for parameter, text in values.items():
                for name in names_in(text):
                    if (problem := known.problem_of(name)) is not None:
                        yield (edit, parameter), *problem


@final
class _Change:
    """Change of the queries of a route."""

    __slots__ = ("_added", "_dropped", "_renamed")

    def __init__(self, settings: QueryParameters) -> None:
        renamed = ((name, new) for name, new in settings.rename.items() if name not in settings.remove)
        kept = {name: new for name, new in renamed if new not in settings.set}
        self._renamed = {name.encode(): _encoded(new) for name, new in kept.items()}
        gone = {*settings.remove, *settings.rename, *settings.rename.values(), *settings.set} - {*kept}
        self._dropped = frozenset(name.encode() for name in gone)
        pairs = (*settings.set.items(), *settings.add.items())
        self._added = tuple((_encoded(name) + b"=", _value(text), is_identity(text)) for name, text in pairs)

    def request(self, exchange: Exchange) -> Outcome:
        query = exchange.query if exchange.query_sent is UNCHANGED_QUERY else exchange.query_sent
        pairs = [each for pair in query.split(b"&") if (each := self._kept(pair)) is not None] if query else []
        for begin, value, identity in self._added:
            try:
                held = value if isinstance(value, bytes) else value(exchange)
            except Unfit as unfit:
                if identity:
                    return exchange.refuse(Fault.FORBIDDEN, why=str(unfit))
                continue
            if held:
                pairs.append(begin + held)
        changed = b"&".join(pairs)
        if changed != (query or b""):
            exchange.query_sent = changed or None
        return None

    def _kept(self, pair: bytes) -> bytes | None:
        """Return a pair as it is sent; None: it is removed."""
        name, mark, value = pair.partition(b"=")
        key = decode_form_text(name)
        if key in self._dropped:
            return None
        renamed = self._renamed.get(key)
        return pair if renamed is None else renamed + mark + value


def _encoded(text: str) -> bytes:
    return quote(text, safe="").encode()


def _value(text: str) -> bytes | Callable[[Exchange], bytes | None]:
    """Return an encoded value, or the function that computes it. Literal parts of a text are encoded with the rest."""
    value: bytes | Value = compiled(text, decodes=True)
    if isinstance(value, bytes):
        return quote(value, safe="").encode()
    expand = value

    def encoded(exchange: Exchange) -> bytes | None:
        held = expand(exchange)
        return None if held is None else quote(held, safe="").encode()

    return encoded
