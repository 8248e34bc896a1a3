"""graphql: limit the operations of GraphQL that clients may send, without a GraphQL server."""

from collections.abc import Iterable, Mapping
from functools import partial
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, NamedTuple, final

import orjson
from msgspec import Meta

from fastgw.config.base.settings_base import NONE
from fastgw.config.base.value_types import Sha256, Size
from fastgw.filters.api import (
    BodyHook,
    BodyStage,
    Bounded,
    Env,
    Exchange,
    Fault,
    Filter,
    Hooks,
    Outcome,
    Phase,
    Reply,
    StageFactory,
)
from fastgw.filters.api.coded_bodies import is_coded
from fastgw.filters.policies.content.body_checks import BodyObserver
from fastgw.filters.policies.shield.graphql_document import (
    CEILING,
    CostRules,
    GraphqlOperation,
    InvalidDocument,
    TokenBudget,
    read_operations,
)
from fastgw.http.charsets import is_utf8
from fastgw.http.json.invalid import InvalidJson
from fastgw.http.json.strict import MOST_CONTAINERS, MOST_INLINE, parse_json, takes_long
from fastgw.observe.metrics.families import FilterEvent
from fastgw.routing.requirements import parameters_named

_JSON, _TEXT, _NEW = b"application/json", b"application/graphql", b"application/graphql-response+json"
_PARAMETERS: Final = ("query", "operationName", "variables", "extensions")
_FOLDED: Final = frozenset(name.casefold() for name in _PARAMETERS)
GraphqlName = Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
OperationType = Literal["query", "mutation", "subscription"]


class Graphql(Filter, name="graphql", phase=Phase.VALIDATE, order=10):  # type: ignore[literal-required]  # order: ours
    """Limit GraphQL requests before they reach the server: depth, cost, aliases, directives, batches, introspection,
    operations by name, and persisted queries by an allow list.

    Every request of the route has to be one of GraphQL over HTTP: GET with `query`, or POST with JSON or
    `application/graphql`. A request that is no valid document is answered 400, an operation that is not allowed 403,
    both with `errors` as GraphQL has them. Documents are read by the grammar; types are not known, so that each field
    counts, also in fragments on other types and behind `@skip` and `@include`. Subscriptions over WebSocket are
    answered 403, because their operations are not seen.
    """

    max_depth: Annotated[int, Meta(ge=1, le=60)] = 15
    """Maximum number of levels of fields below each other."""
    max_cost: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1000
    """Maximum cost of an operation: each field costs 1, or as `costs` says, and fields below one with a list argument
    count as often as the list is long."""
    costs: Mapping[GraphqlName, Annotated[int, Meta(ge=0, le=1_000_000)]] = NONE
    """Costs of fields by name, of whatever type."""
    list_arguments: tuple[GraphqlName, ...] = ("first", "last", "limit")
    """Names of arguments with the length of a list, in numbers or variables."""
    list_size: Count = 10
    """Length of a list whose argument is no number. A fraction is rounded up; a number in quotation marks counts."""
    max_aliases: Annotated[int, Meta(ge=0, le=1_000_000)] = 15
    """Maximum number of aliases of an operation."""
    max_directives: Annotated[int, Meta(ge=0, le=1_000_000)] = 20
    """Maximum number of directives of an operation."""
    max_root_fields: Count = 20
    """Maximum number of fields at the root of an operation."""
    max_tokens: Annotated[int, Meta(ge=1, le=2000)] = 1000
    """Maximum number of tokens of a document, or of all those of a batch together: names, numbers, strings,
    punctuation, and comments. Not above 2000, because the event loop reads documents."""
    max_bytes: Annotated[Size, Meta(ge=1, le=MOST_INLINE)] = 32 * 1024
    """Maximum size of a request body, which is held until it is complete; a longer one is answered 413. One with more
    than 16,000 arrays and objects is answered 400. One for which the node's memory for held bodies is used up
    (`fastgw_kept_body_bytes`) is answered 503 (`overloaded`), or passes unchecked with `mode: report`."""
    max_batch: Annotated[int, Meta(ge=1, le=100)] = 1
    """Maximum number of operations in one request, as a JSON array; each must be within the limits, and all together
    within `max_cost` and `max_tokens`. 1 = arrays are refused."""
    introspection: bool = False
    """Whether `__schema` and `__type` may be asked for."""
    types: tuple[OperationType, ...] = ("query", "mutation")
    """Types of operations. Mutations are always refused with GET."""
    operations: tuple[GraphqlName, ...] = ()
    """Names of operations that are allowed. [] = any."""
    persisted_queries: tuple[Sha256, ...] = ()
    """SHA-256 of the documents that are allowed, whether they are sent as text or as the hash alone
    (`extensions.persistedQuery.sha256Hash`). [] = any document as text; a hash alone is answered
    `PERSISTED_QUERY_NOT_FOUND`, so that clients send the text."""
    mode: Literal["enforce", "report"] = "enforce"
    """`report`: the request passes; the log has the reason in `shadow`, and it is counted as a decision in shadow mode.
    A body that is longer than `max_bytes` passes unchecked."""

    def build(self, env: Env) -> Hooks:
        use = _Limits(self, env.instance)
        if self.mode == "report":
            observed = StageFactory(use.observer, reads_only=True)
            return Hooks(request=use.request, request_body=observed, explain=use.explain)
        return Hooks(
            request=use.request,
            request_body=BodyHook(use.request_body, needs=Bounded(self.max_bytes)),
            explain=use.explain,
        )


class _Refused(Exception):
    """`code`: of the error, as Apollo names it; `fault`: in the log."""

    def __init__(self, message: str, code: str = "BAD_REQUEST", fault: Fault = Fault.VALIDATION_FAILED) -> None:
        super().__init__(message)
        self.code, self.fault = code, fault


class _Call(NamedTuple):
    query: str | None
    name: str | None
    variables: Any
    digest: bytes | None
    """Hash of a persisted query."""


@final
class _Limits:
    """Limits of one use of the filter."""

    def __init__(self, settings: Graphql, instance: str) -> None:
        self._settings, self._instance = settings, instance
        self._rules = CostRules(dict(settings.costs), frozenset(settings.list_arguments), settings.list_size)
        self._names = frozenset(settings.operations)
        self._types = frozenset(settings.types)
        self._allowed = frozenset(settings.persisted_queries)

    def request(self, exchange: Exchange) -> Outcome:
        """Check all but the body."""
        try:
            if exchange.head.upgrade or exchange.head.connect_protocol:
                raise _Refused("Subscriptions over WebSocket are not allowed here.", "FORBIDDEN", Fault.FORBIDDEN)
            if exchange.method == b"GET":
                self._check([self._of_query(exchange)], is_get=True)
            elif exchange.method == b"POST":
                self._check_post(exchange)
            elif exchange.method != b"OPTIONS":
                raise _Refused("GraphQL needs GET or POST.", "BAD_REQUEST", Fault.METHOD_NOT_ALLOWED)
        except _Refused as refused:
            return self._answer(exchange, refused)
        return None

    def request_body(self, exchange: Exchange, payload: bytes) -> Reply | None:
        """Check the whole body."""
        try:
            self._check(self._of_body(exchange, payload), is_get=False)
        except _Refused as refused:
            return self._answer(exchange, refused)
        return None

    def observer(self, exchange: Exchange) -> BodyStage | None:
        """Return the stage that checks a body as it passes. None: there is none, or it is reported already."""
        if exchange.method != b"POST" or exchange.shadowed.startswith(f"{self._instance}: "):
            return None
        budget = exchange.client.held_body_budget.share_of(exchange.client_ip)
        return BodyObserver(partial(self.request_body, exchange), self._settings.max_bytes, budget)

    def _check_post(self, exchange: Exchange) -> None:
        if any(True for name in _PARAMETERS for _ in parameters_named(name.encode(), exchange.query)):
            raise _Refused("Servers may read either the URL or the body: expected the body only.")
        if not exchange.has_body:
            raise _Refused("The request has no body.")
        types = exchange.values(b"content-type")
        if len(types) != 1 or _media_type(exchange) not in (_JSON, _TEXT) or not is_utf8(types[0]):
            raise _Refused("Expected JSON in UTF-8.", "BAD_REQUEST", Fault.UNSUPPORTED_MEDIA_TYPE)
        if is_coded(exchange):
            raise _Refused("Expected a body without a content coding.", "BAD_REQUEST", Fault.UNSUPPORTED_MEDIA_TYPE)

    def _of_query(self, exchange: Exchange) -> _Call:
        if exchange.has_body:
            raise _Refused("GET has no body here.")
        held: dict[str, Any] = {}
        for name in _PARAMETERS:
            values = list(parameters_named(name.encode(), exchange.query))
            if len(values) > 1:
                raise _Refused(f"{name} is sent more than once.")
            if values:
                is_json = name in ("variables", "extensions")
                held[name] = _parsed(values[0]) if is_json and values[0] else _decoded(values[0])
        return _call_of(held)

    def _of_body(self, exchange: Exchange, payload: bytes) -> list[_Call]:
        if _media_type(exchange) == _TEXT:
            return [_call_of({"query": _decoded(payload)})]
        body = _parsed(payload)
        if not isinstance(body, list):
            return [_call_of(body)]
        most = self._settings.max_batch
        if most == 1:
            raise _Refused("Batches (arrays of operations) are not allowed.")
        if not body:
            raise _Refused("An empty batch.")
        if len(body) > most:
            raise _Refused(f"A batch of {len(body)} operations; at most {most} are allowed.")
        return [_call_of(each) for each in body]

    def _check(self, calls: Iterable[_Call], is_get: bool) -> None:
        budget = TokenBudget(self._settings.max_tokens)
        cost = sum(self._cost_of(call, is_get, budget) for call in calls)
        if cost > self._settings.max_cost:
            raise _Refused(f"The cost is {_shown(cost)}; at most {self._settings.max_cost} is allowed.")

    def _cost_of(self, call: _Call, is_get: bool, budget: TokenBudget) -> int:
        """Check one operation. Returns the cost. `budget`: of the whole request."""
        if call.query is None:
            if call.digest is None or call.digest not in self._allowed:
                raise _Refused("PersistedQueryNotFound", "PERSISTED_QUERY_NOT_FOUND")
            return 0
        digest = sha256(call.query.encode("utf-8", "surrogatepass")).digest()
        if call.digest is not None and call.digest != digest:
            raise _Refused("The document does not match its sha256Hash.")
        if self._allowed and digest not in self._allowed:
            raise _Refused("This document is not allowed.", "FORBIDDEN", Fault.FORBIDDEN)
        try:
            operations = read_operations(call.query, budget, self._rules, call.variables)
        except InvalidDocument as invalid:
            raise _Refused(f"{str(invalid)[0].upper()}{str(invalid)[1:]}.", "GRAPHQL_PARSE_FAILED") from invalid
        if call.name is None and len(operations) > 1:
            raise _Refused("The document has several operations; expected operationName.")
        if call.name is not None and call.name not in (each.name for each in operations):
            raise _Refused("The document has no operation with this operationName.")
        for operation in operations:  # servers may run another one than the named one
            self._check_operation(operation, is_get)
        return max(operation.measures.cost for operation in operations)

    def _check_operation(self, operation: GraphqlOperation, is_get: bool) -> None:
        settings, measures = self._settings, operation.measures
        if operation.kind not in self._types or (is_get and operation.kind != "query"):
            raise _Refused(f"A {operation.kind} is not allowed here.", "FORBIDDEN", Fault.FORBIDDEN)
        if self._names and operation.name not in self._names:
            raise _Refused("This operation is not allowed.", "FORBIDDEN", Fault.FORBIDDEN)
        if measures.introspects and not settings.introspection:
            raise _Refused("Introspection is not allowed.", "INTROSPECTION_DISABLED", Fault.FORBIDDEN)
        for what, found, most in (
            ("depth", measures.depth, settings.max_depth),
            ("cost", measures.cost, settings.max_cost),
            ("number of aliases", measures.aliases, settings.max_aliases),
            ("number of directives", measures.directives, settings.max_directives),
            ("number of root fields", operation.root_fields, settings.max_root_fields),
        ):
            if found > most:
                raise _Refused(f"The {what} is {_shown(found)}; at most {most} is allowed.")

    def _answer(self, exchange: Exchange, refused: _Refused) -> Reply | None:
        """Return the response; in the mode `report` None, once it is noted."""
        if self._settings.mode == "report":
            behind = f"; {exchange.shadowed}" if exchange.shadowed else ""
            exchange.shadowed = f"{self._instance}: refuse {refused.fault.status} ({refused}){behind}"
            exchange.client.counts.count_shadow_decision(exchange, self._instance, FilterEvent.ANSWER)
            return None
        exchange.why = str(refused)
        exchange.client.counts.count_refusal(exchange, self._instance)
        body = orjson.dumps({"errors": [{"message": str(refused), "extensions": {"code": refused.code}}]})
        kind = _NEW if any(_NEW in value.lower() for value in exchange.values(b"accept")) else _JSON
        fields = ((b"Content-Type", kind + b"; charset=utf-8"),)
        if refused.fault is Fault.METHOD_NOT_ALLOWED:
            fields = (*fields, (b"Allow", b"GET, POST"))  # type: ignore[assignment]  # a tuple of any length
        return Reply(refused.fault.status, body, fields, refused.fault)

    def explain(self, exchange: Exchange) -> str:
        settings = self._settings
        limits = f"depth at most {settings.max_depth}, cost at most {settings.max_cost}"
        return limits if exchange.method == b"GET" else f"if its body is within the limits: {limits}"


def _call_of(held: Any) -> _Call:
    """Return an operation of a request. Raises `_Refused`."""
    if not isinstance(held, dict):
        raise _Refused("A GraphQL request is an object.")
    if any(each not in _PARAMETERS and each.casefold() in _FOLDED for each in held):  # the same to servers in Go
        raise _Refused("A member has the name of a parameter in another case.")
    query, name, extensions = held.get("query"), held.get("operationName"), held.get("extensions")
    if not (query is None or isinstance(query, str)) or not (name is None or isinstance(name, str)):
        raise _Refused("query and operationName are strings.")
    variables = held.get("variables")
    if not (variables is None or isinstance(variables, dict) or variables == ""):
        raise _Refused("variables is an object.")
    persisted = extensions.get("persistedQuery") if isinstance(extensions, dict) else None
    digest = persisted.get("sha256Hash") if isinstance(persisted, dict) else None
    known: bytes | None = None
    if digest is not None:
        try:
            known = bytes.fromhex(digest) if isinstance(digest, str) and len(digest) == 64 else None
        except ValueError:
            known = None
        if known is None:
            raise _Refused("sha256Hash is not a SHA-256 in hexadecimal.")
    if query is None and known is None:
        raise _Refused("The request has no query.")
    return _Call(query or None if known is not None else query, name or None, variables, known)


def _media_type(exchange: Exchange) -> bytes:
    return (exchange.field(b"content-type") or b"").partition(b";")[0].strip().lower()


def _parsed(text: bytes) -> Any:
    if takes_long(text):
        raise _Refused(f"The JSON has more than {MOST_CONTAINERS} arrays and objects.")
    try:
        return parse_json(text)
    except InvalidJson as invalid:
        raise _Refused(f"The JSON is refused: {invalid}.") from invalid


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise _Refused("The text is not UTF-8.") from error


def _shown(found: int) -> str:
    return "far more than that" if found >= CEILING else str(found)
