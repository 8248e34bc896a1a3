"""The admin API: one table of operations, the source of its routes and of its OpenAPI document.

Request bodies are limited in size and time, and the check of documents in time and memory. Problems follow RFC 9457;
the result of a configuration change is an `Outcome`, whatever its status.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Container, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from fastgw.admin import browser_sessions, cache_purges, dashboard, revocations
from fastgw.admin.analytics_csv import CSV, as_csv
from fastgw.admin.analytics_query import QUERY_PARAMETERS, read_query
from fastgw.admin.authorization import ACTOR, CERTIFIED, SAFE, Access, Gate
from fastgw.admin.browser_sessions import SessionCookie
from fastgw.admin.node_interface import (
    JSON,
    MOST_CACHED_SHOWN,
    NDJSON,
    Analytics,
    CacheInfo,
    CachePurged,
    ConfigChanges,
    ConfigHistory,
    Consumers,
    DebugTokenMade,
    DebugWanted,
    Draining,
    Effective,
    Explained,
    History,
    Limits,
    Live,
    Node,
    Outcome,
    OverBound,
    PurgeNotRecorded,
    Quotas,
    QuotaWasReset,
    Reason,
    RecordingBegun,
    RecordingEnded,
    RecordingWanted,
    RequestToExplain,
    Revocations,
    Revoked,
    Routes,
    Status,
    TargetInfo,
    Upstreams,
)
from fastgw.admin.openapi import document
from fastgw.admin.operation import Act, Operation
from fastgw.admin.responses import answer, json_response, refused
from fastgw.admin.stories import QUERY_PARAMETERS as QUERY_PARAMETERS_OF_STORIES
from fastgw.admin.stories import StoryList, list_stories, one_story
from fastgw.admin.tapped_request import TapRequest
from fastgw.admin.taps import tap
from fastgw.analytics.store import CannotKeepAnalytics
from fastgw.analytics.usage import TooMuch
from fastgw.capture.debug_token import MOST_S as MOST_DEBUGGED_S
from fastgw.capture.story_record import Story
from fastgw.config.base.problems import shorten
from fastgw.config.settings.secrets import Secret, SecretError
from fastgw.eventloop.addressed_connections import (
    MOST_PAYLOAD,
    ConnectionOrder,
    ConnectionStatus,
    OrderAnswer,
    Result,
    Verb,
)
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.operator_log import described
from fastgw.sync.revocations import MOST_ENDED_SESSIONS

BODY_TIMEOUT: Final = 30.0
"""Timeout in seconds for a whole request body."""
EXPLAINED_BYTES: Final = 128 * 1024
"""Maximum size in bytes of a request to explain, as JSON."""
BYTES: Final = "application/octet-stream"
HTML: Final = "text/html; charset=utf-8"
MESSAGE_PACK: Final = "application/vnd.msgpack"
OPENMETRICS: Final = "application/openmetrics-text"
PROMETHEUS: Final = "text/plain"
SUFFIXES: Final[Mapping[str, str]] = {
    "application/yaml": ".yaml",
    "application/json": ".json",
    "application/toml": ".toml",
}
"""File suffixes by content type of a configuration."""
LIST_SUFFIXES: Final = {kind: suffix for kind, suffix in SUFFIXES.items() if suffix != ".toml"}
"""File suffixes by content type of a list of targets: TOML has no top-level lists."""
DETAIL: Final = "detail"
"""Key in a request's state: details for the audit log."""
STATUS_OF: Final[Mapping[Reason, int]] = {"": 200, "rejected": 422, "busy": 409, "failed": 503}


class QuotaReset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Quota count to reset."""

    filter: str
    """Name of the quota in the configuration, at all its levels."""
    consumer: str | None = None
    """Name of the consumer, of a quota that counts by consumer."""
    key: str | tuple[str, ...] | None = None
    """Value of another key: address, host, route, or value of the header, cookie or claim. A list for a quota with
    several keys, in their order.
    """


class ConnectionDone(msgspec.Struct, frozen=True):
    """Response to a message for a connection, or to its end."""

    done: bool = True


class Ended(msgspec.Struct, frozen=True):
    """Response to the end of a browser session."""

    ended: bool = True


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Target of a rollback."""

    generation: int | None = None
    """Retained generation to return to; null = the last different one, each time one further back."""


def create_app(node: Node, access: Access) -> Starlette:
    """Return the API of a node, for clients that pass `access`."""
    paths = dict.fromkeys(each.path for each in OPERATIONS)
    app = Starlette(
        routes=[_route(node, [each for each in OPERATIONS if each.path == path]) for path in paths],
        middleware=[Middleware(Gate, access, node.record, node.has_session_ended)],
        exception_handlers={HTTPException: _refuse, ClientDisconnect: _incomplete_request, Exception: _own_fault},
    )
    app.router.redirect_slashes = False
    app.state.access = access
    return app


def _route(node: Node, operations: Sequence[Operation]) -> Route:
    by_method = {each.method: each for each in operations}
    if "GET" in by_method and not by_method["GET"].consumes:
        by_method["HEAD"] = by_method["GET"]

    async def endpoint(request: Request) -> Response:
        operation = by_method[request.method]
        _check_query(request, (*operation.flags, *operation.asks, *operation.repeats), operation.repeats)
        if operation.reads or request.method in SAFE or request.query_params.get("dry_run") == "true":
            return await operation.act(node, request)
        return await _audited(operation, node, request)

    # Names of objects generated from `egress` contain slashes, and so do targets that are unix sockets.
    path = operations[0].path.replace("{name}", "{name:path}").replace("{target}", "{target:path}")
    route = Route(path, endpoint, methods=list(by_method))
    route.methods = set(by_method)  # without the HEAD that Starlette adds to each GET
    return route


async def _audited(operation: Operation, node: Node, request: Request) -> Response:
    """Perform an operation that changes something, and record it in the audit log."""
    result = "500"
    try:
        response = await operation.act(node, request)
        result = f"{response.status_code} {_summary(response)}".rstrip()
        return response
    except HTTPException as refusal:
        result = f"{refusal.status_code} {refusal.detail}"
        raise
    finally:
        detail: Mapping[str, str] = getattr(request.state, DETAIL, {})
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        await node.record(getattr(request.state, ACTOR), f"{request.method} {path}", result, detail)


def _summary(response: Response) -> str:
    """Return the line for people in the response, if it has one."""
    try:
        return msgspec.json.decode(response.body, type=_Summary).summary
    except msgspec.MsgspecError:
        return ""


class _Summary(msgspec.Struct, frozen=True):
    summary: str = ""


def _note(request: Request, **detail: object) -> None:
    """Set the details of the request for the audit log. Secrets and tokens do not belong there."""
    setattr(request.state, DETAIL, {name: str(value) for name, value in detail.items() if value not in (None, "", ())})


async def _refuse(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, HTTPException)
    detail = {404: "Unknown path; /openapi.json lists all paths.", 405: "This method is not allowed for this path."}
    if refusal.detail != HTTPStatus(refusal.status_code).phrase:  # the gateway's own
        detail = {}
    fields = {name.replace("-", "_"): value for name, value in (refusal.headers or {}).items()}
    return refused(refusal.status_code, detail.get(refusal.status_code, refusal.detail), **fields)


async def _incomplete_request(request: Request, error: Exception) -> Response:
    return refused(400, "The request body is incomplete.")  # unused


async def _own_fault(request: Request, error: Exception) -> Response:
    log_event(OperatorEvent.DEFECT, "admin: a defect: %s", described(error))
    return refused(500, "Internal error of the gateway; see its log.")


# --- requests ---


async def _body(request: Request, most: int | None = None) -> bytes:
    """Read the body. `most`: maximum size in bytes; None: that of documents."""
    length, why = request.headers.get("content-length", "0"), ""
    if most is None:
        most, why = request.app.state.access.document_bytes, ": admin.document_bytes"
    too_long = HTTPException(413, f"The request body is limited to {most} bytes{why}.")
    if int(length) > most:  # the server has validated the number
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise too_long
    except TimeoutError as error:
        raise HTTPException(408, f"The body did not arrive within {BODY_TIMEOUT:.0f} s.") from error
    return bytes(body)


def _content_type(request: Request, *wanted: str) -> str:
    """Return the request's content type, which must be one of those accepted."""
    content_type_header = request.headers.get("content-type", "")
    content_type = content_type_header.partition(";")[0].strip().lower()
    if content_type not in wanted:
        was = f'not "{shorten(content_type_header)}"' if content_type_header else "and there is none"
        must = " or ".join(filter(None, (", ".join(wanted[:-1]), wanted[-1])))
        raise HTTPException(415, f"The Content-Type must be {must}, {was}; with curl: -H 'Content-Type: {wanted[0]}'.")
    return content_type


async def _no_body(request: Request) -> None:
    if await _body(request):
        raise HTTPException(415, "This request must not have a body.")


def _check_query(request: Request, known: Collection[str], repeats: Container[str]) -> None:
    """Reject unknown query parameters: one may have been meant to prevent the operation, such as a misspelt
    `dry_run`.
    """
    known_names = f"known here: {', '.join(known) or 'none'}"
    met = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            raise HTTPException(400, f'Unknown query parameter "{shorten(name)}"; {known_names}.')
        if name in met and name not in repeats:
            raise HTTPException(400, f'Duplicate query parameter "{name}"; {known_names}.')
        met.add(name)


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false")
    if value not in ("true", "false"):
        raise HTTPException(400, f"{name} must be true or false.")
    return value == "true"


# --- operations ---


def _telling(ask: Callable[[Node], Any]) -> Act:
    async def act(node: Node, request: Request) -> Response:
        return json_response(ask(node))

    return act


async def _metrics(node: Node, request: Request) -> Response:
    content_type, text = node.metrics(request.headers.get("accept", "").encode("latin-1"))
    return answer(text, content_type.decode())


async def _page(node: Node, request: Request) -> Response:
    return answer(dashboard.page(), HTML, policy=dashboard.csp())


async def _begin_session(node: Node, request: Request) -> Response:
    await _no_body(request)
    access: Access = request.app.state.access
    try:
        token, renewed = _authenticated_with(node, request, access)
        cookie, session = browser_sessions.create_session(access.session_key(token), time.time(), renewed)
    except SecretError as error:
        raise HTTPException(503, "The token cannot be read; see the gateway's log.") from error
    return json_response(session, Set_Cookie=_cookie(request, access, cookie))


def _authenticated_with(node: Node, request: Request, access: Access) -> tuple[Secret, SessionCookie | None]:
    """Return the token that the client has authenticated with, now or when its session began, and the session. Raises
    `SecretError`.
    """
    if access.anonymous or getattr(request.state, CERTIFIED, False):
        return access.token, None
    shown = request.headers.get("authorization")
    found: tuple[Secret, SessionCookie | None] | None
    if shown is None:
        found = _session_of(node, request, access)
    else:
        token = access.token_in(shown)
        found = None if token is None else (token, None)
    if found is None:  # the token has changed, or the session has ended, since the request was let in
        raise HTTPException(401, "The token is wrong.")
    return found


def _session_of(node: Node, request: Request, access: Access) -> tuple[Secret, SessionCookie] | None:
    """Return the session of the request, and the token that it began with. Raises `SecretError`."""
    cookie = access.cookie_in(request.headers.get("cookie", ""), request.headers["host"])
    return None if cookie is None else access.session_in(cookie, node.has_session_ended)


async def _role(node: Node, request: Request) -> Response:
    access: Access = request.app.state.access
    try:
        is_full = _authenticated_with(node, request, access)[0] is access.token
    except SecretError as error:
        raise HTTPException(503, "The token cannot be read; see the gateway's log.") from error
    return json_response(browser_sessions.SessionRole("full" if is_full else "read_only"))


async def _end_session(node: Node, request: Request) -> Response:
    await _no_body(request)
    access: Access = request.app.state.access
    try:
        found = _session_of(node, request, access)
    except SecretError as error:
        raise HTTPException(503, "The token cannot be read; see the gateway's log.") from error
    if found is not None:
        token, session = found
        most = MOST_ENDED_SESSIONS if token is access.token else browser_sessions.ENDED_BY_READERS
        if not node.end_session(session.end, most):
            why = "too many have ended in 30 days, or the gateway is busy"
            raise HTTPException(503, f"The session has not ended: {why}. Try again later, or change the token.")
    return json_response(Ended(), Set_Cookie=_cookie(request, access, ""))


def _cookie(request: Request, access: Access, value: str) -> str:
    name = browser_sessions.cookie_name(request.headers["host"], tls=access.tls)
    return browser_sessions.set_cookie(name, value, tls=access.tls)


async def _config(node: Node, request: Request) -> Response:
    return json_response(await node.config())


async def _consumers(node: Node, request: Request) -> Response:
    return json_response(Consumers(await node.consumers()))


async def _openapi(node: Node, request: Request) -> Response:
    return json_response(document(OPERATIONS))


def _outcome_response(outcome: Outcome) -> Response:
    return json_response(outcome, STATUS_OF[outcome.reason])


async def _checked(change: Awaitable[Outcome]) -> Response:
    try:
        return _outcome_response(await change)
    except OverBound as error:
        raise HTTPException(413, str(error)) from error


async def _apply(node: Node, request: Request) -> Response:
    suffix, dry_run = SUFFIXES[_content_type(request, *SUFFIXES)], _flag(request, "dry_run")
    return await _checked(node.apply(await _body(request), suffix, dry_run))


async def _put_targets(node: Node, request: Request) -> Response:
    suffix = LIST_SUFFIXES[_content_type(request, *LIST_SUFFIXES)]
    return await _checked(node.put_targets(request.path_params["name"], await _body(request), suffix))


async def _drain_target(node: Node, request: Request) -> Response:
    await _no_body(request)
    name, target = request.path_params["name"], request.path_params["target"]
    found = node.drain_target(name, target, request.method == "POST")
    if found is None:
        raise HTTPException(404, "Unknown target; /upstreams lists all targets.")
    return json_response(found)


async def _reload(node: Node, request: Request) -> Response:
    await _no_body(request)
    return _outcome_response(await node.reload())


async def _rollback(node: Node, request: Request) -> Response:
    body = await _body(request)
    if body:
        _content_type(request, JSON)
    try:
        wanted = msgspec.json.decode(body or b"{}", type=Rollback)
    except ValueError as error:  # includes MsgspecError and text that is not UTF-8
        raise HTTPException(400, f"Invalid rollback request: {error}.") from error
    _note(request, generation=wanted.generation)
    return _outcome_response(await node.rollback(wanted.generation))


async def _config_changes(node: Node, request: Request) -> Response:
    asked = request.path_params["generation"]
    if not asked.isdecimal() or len(asked) > 18:
        raise HTTPException(404, "A generation is a number; /config/history lists those that are kept.")
    try:
        changes = await node.config_changes(int(asked))
    except ValueError as error:
        raise HTTPException(409, f"{shorten(str(error))}.") from error
    if changes is None:
        raise HTTPException(404, "This generation is not kept; /config/history lists those that are.")
    return json_response(changes)


async def _revoke(node: Node, request: Request) -> Response:
    body = await _body(request)
    _content_type(request, JSON)
    try:
        records, about = revocations.read(msgspec.json.decode(body, type=revocations.Revocation))
    except ValueError as error:  # includes MsgspecError
        raise HTTPException(400, f"Invalid revocation: {error}.") from error
    _note(request, kind=about.kind, issuer=about.issuer, subject=about.subject, jti=about.jti)
    return json_response(Revoked(about.expires_date, node.revoke(records, about)))


async def _cache(node: Node, request: Request) -> Response:
    asked = request.query_params.get("objects", "20")
    if not asked.isdecimal() or not 0 <= int(asked[:9]) <= MOST_CACHED_SHOWN:
        raise HTTPException(400, f"Invalid `objects`; expected a number from 0 to {MOST_CACHED_SHOWN}.")
    return json_response(await node.cache(int(asked)))


async def _purge_cache(node: Node, request: Request) -> Response:
    body = await _body(request)
    _content_type(request, JSON)
    try:
        wanted = msgspec.json.decode(body, type=cache_purges.CachePurge)
        order = cache_purges.read_purge(wanted)
    except ValueError as error:  # includes MsgspecError
        raise HTTPException(400, f"Invalid purge: {error}.") from error
    _note(request, **msgspec.structs.asdict(wanted))
    try:
        purged = await node.purge_cache(order)
    except PurgeNotRecorded as error:
        raise HTTPException(
            503,
            "The purge holds on this node only: it could neither be sent to Redis nor recorded for later. Repeat it.",
        ) from error
    if purged is None:
        raise HTTPException(404, "Unknown cache store; `caches` of the configuration lists them, and `main` exists.")
    return json_response(purged)


async def _tap(node: Node, request: Request) -> Response:
    body = await _body(request, EXPLAINED_BYTES)
    if body:
        _content_type(request, JSON)
    try:
        wanted = msgspec.json.decode(body or b"{}", type=TapRequest)
    except ValueError as error:  # includes MsgspecError
        raise HTTPException(400, f"Invalid tap: {shorten(str(error))}.") from error
    said = msgspec.structs.asdict(wanted)
    _note(request, **{name: ",".join(value) if isinstance(value, Sequence) else value for name, value in said.items()})
    return await tap(node, request, wanted)


async def _quotas(node: Node, request: Request) -> Response:
    asked = request.query_params
    return json_response(Quotas(node.quotas(asked.get("consumer"), asked.getlist("key"))))


async def _analytics(node: Node, request: Request) -> Response:
    return json_response(await _queried(node, request))


async def _analytics_csv(node: Node, request: Request) -> Response:
    return answer(as_csv(await _queried(node, request)).encode(), CSV)


async def _queried(node: Node, request: Request) -> Analytics:
    try:
        query = read_query(request.query_params, time.time())
        usage = await node.analytics(query)
    except ValueError as error:
        raise HTTPException(400, f"{error}.") from error
    except TooMuch as error:
        raise HTTPException(422, f"The query is refused: {error}.") from error
    except CannotKeepAnalytics as error:
        raise HTTPException(503, f"Analytics: {error}.") from error
    if usage is None:
        raise HTTPException(404, "No analytics are kept; `analytics` of the configuration begins them.")
    return Analytics(query.since_date, query.until_date, *usage)


async def _limits(node: Node, request: Request) -> Response:
    return json_response(await node.limits())


async def _reset_quota(node: Node, request: Request) -> Response:
    body = await _body(request)
    _content_type(request, JSON)
    try:
        wanted = msgspec.json.decode(body, type=QuotaReset)
    except ValueError as error:  # includes MsgspecError and text that is not UTF-8
        raise HTTPException(400, f"Invalid reset request: {error}.") from error
    keys = (wanted.key,) if isinstance(wanted.key, str) else wanted.key or ()
    if wanted.consumer is None and not keys:
        raise HTTPException(
            400, "Invalid reset request: expected `consumer`, `key`, or both where the quota counts by both."
        )
    _note(request, filter=wanted.filter, consumer=wanted.consumer, key="given" if keys else "")
    reset = node.reset_quota(wanted.filter, wanted.consumer, keys)
    if reset is None:
        raise HTTPException(404, f'There is no quota "{shorten(wanted.filter)}" with this key.')
    return json_response(QuotaWasReset(reset))


async def _explain(node: Node, request: Request) -> Response:
    body = await _body(request, EXPLAINED_BYTES)
    _content_type(request, JSON)
    try:
        return json_response(await node.explain(msgspec.json.decode(body, type=RequestToExplain)))
    except ValueError as error:  # includes MsgspecError
        raise HTTPException(400, f"Invalid request to explain: {shorten(str(error))}.") from error
    except TimeoutError as error:
        raise HTTPException(503, "The explanation took too long; try again later.") from error


async def _new_debug_token(node: Node, request: Request) -> Response:
    body = await _body(request)
    if body:
        _content_type(request, JSON)
    try:
        wanted = msgspec.json.decode(body or b"{}", type=DebugWanted)
    except ValueError as error:  # includes MsgspecError
        raise HTTPException(400, f"Invalid debug token: {shorten(str(error))}.") from error
    if not 0.0 < wanted.seconds <= MOST_DEBUGGED_S:
        raise HTTPException(400, f"Invalid debug token: `seconds` must be above 0, at most {MOST_DEBUGGED_S:g}.")
    _note(request, route=wanted.route, seconds=wanted.seconds)
    made = await node.new_debug_token(wanted.route, wanted.seconds)
    if made is None:
        raise HTTPException(404, f'There is no route "{shorten(wanted.route)}"; /routes lists all routes.')
    return json_response(made)


async def _begin_recording(node: Node, request: Request) -> Response:
    body = await _body(request)
    _content_type(request, JSON)
    try:
        wanted = msgspec.json.decode(body, type=RecordingWanted)
        begun = await node.begin_recording(wanted)
    except ValueError as error:  # includes MsgspecError
        raise HTTPException(400, f"Invalid recording: {error}.") from error
    _note(request, requests=wanted.requests, ratio=wanted.ratio, routes=",".join(wanted.routes))
    if begun is None:
        raise HTTPException(409, "There is a recording already; it ends if nobody fetches its records.")
    return json_response(begun)


async def _fetch_records(node: Node, request: Request) -> Response:
    records = await node.fetch_records(request.path_params["id"])
    if records is None:
        raise HTTPException(404, "There is no such recording, or the gateway has ended it.")
    return answer(records, MESSAGE_PACK)


async def _end_recording(node: Node, request: Request) -> Response:
    await _no_body(request)
    ended = node.end_recording(request.path_params["id"])
    if ended is None:
        raise HTTPException(404, "There is no such recording, or the gateway has ended it.")
    return json_response(ended)


async def _send_to_connection(node: Node, request: Request) -> Response:
    """Send a message. It is not audited: it is traffic, and changes nothing in the gateway."""
    kind = _content_type(request, JSON, BYTES)
    body = await _body(request, MOST_PAYLOAD)
    await _order(node, request, Verb.SEND_TEXT if kind == JSON else Verb.SEND_BINARY, body)
    return json_response(ConnectionDone())


async def _connection(node: Node, request: Request) -> Response:
    return json_response((await _order(node, request, Verb.LOOK)).status)


async def _close_connection(node: Node, request: Request) -> Response:
    await _no_body(request)
    await _order(node, request, Verb.CLOSE)
    return json_response(ConnectionDone())


async def _order(node: Node, request: Request, verb: Verb, payload: bytes = b"") -> OrderAnswer:
    try:
        answer = await node.order_connection(ConnectionOrder(request.path_params["id"], verb, payload))
    except OSError as error:
        raise HTTPException(503, "The worker of this connection does not answer; try again later.") from error
    if answer.result is not Result.DONE:
        status, detail = _NOT_DONE[answer.result]
        raise HTTPException(status, detail)
    return answer


_NOT_DONE: Final[Mapping[Result, tuple[int, str]]] = {
    Result.GONE: (410, "There is no such connection on this node, or it is closing."),
    Result.BUSY: (429, "The client does not read the messages that were sent to it; try again later."),
    Result.INVALID: (413, "The message is longer than message_bytes of the route, or its text is not UTF-8."),
}


async def _drain(node: Node, request: Request) -> Response:
    await _no_body(request)
    node.drain()
    return json_response(Draining(), 202)


_OUTCOMES: Final = dict.fromkeys(STATUS_OF.values(), Outcome)
OPERATIONS: Final = (
    Operation("GET", "/", "The dashboard: a page that loads its data from the other endpoints.", _page, {200: HTML}),
    Operation(
        "POST",
        "/session",
        "Start a dashboard session, which a restart of the gateway ends: returns a session cookie and a CSRF token.",
        _begin_session,
        {200: browser_sessions.Session},
    ),
    Operation(
        "GET",
        "/session",
        "Role of the client: what its credentials allow.",
        _role,
        {200: browser_sessions.SessionRole},
    ),
    Operation(
        "DELETE",
        "/session",
        "End the dashboard session, with all its renewals: the cookie is deleted, and no longer valid.",
        _end_session,
        {200: Ended},
    ),
    Operation(
        "GET", "/status", "Status of the node and its workers.", _telling(lambda node: node.status()), {200: Status}
    ),
    Operation("GET", "/live", "Counts for the dashboard.", _telling(lambda node: node.live()), {200: Live}),
    Operation(
        "GET",
        "/history",
        "Time series of the last hour.",
        _telling(lambda node: node.history()),
        {200: History},
    ),
    Operation(
        "GET",
        "/routes",
        "The routes with their request statistics.",
        _telling(lambda node: Routes(node.routes())),
        {200: Routes},
    ),
    Operation(
        "GET",
        "/upstreams",
        "The upstreams and their targets.",
        _telling(lambda node: Upstreams(node.upstreams())),
        {200: Upstreams},
    ),
    Operation(
        "GET",
        "/consumers",
        "The consumers and their groups, without credentials.",
        _consumers,
        {200: Consumers},
    ),
    Operation(
        "GET",
        "/config",
        "The active configuration, secrets masked, without consumers.",
        _config,
        {200: Effective},
    ),
    Operation(
        "POST",
        "/config",
        "Replace the configuration, on all workers or on none.",
        _apply,
        _OUTCOMES,
        takes=dict.fromkeys(SUFFIXES, bytes),
        flags={"dry_run": "Dry run: check the configuration and report the changes without applying them."},
    ),
    Operation(
        "PUT",
        "/upstreams/{name}/targets",
        "Replace the targets of an upstream until the configuration file is read again; also those of a "
        "file, of DNS or of a registry, which do not count meanwhile.",
        _put_targets,
        _OUTCOMES,
        takes=dict.fromkeys(LIST_SUFFIXES, bytes),
    ),
    Operation(
        "POST",
        "/upstreams/{name}/targets/{target}/drain",
        "Drain a target, by its host and port, on all workers: it gets no new requests, those in flight are finished. "
        "The drain ends when the target leaves the list of the upstream.",
        _drain_target,
        {200: TargetInfo},
    ),
    Operation(
        "DELETE",
        "/upstreams/{name}/targets/{target}/drain",
        "Undrain a target: it gets requests again.",
        _drain_target,
        {200: TargetInfo},
    ),
    Operation("POST", "/reload", "Reload the configuration file.", _reload, _OUTCOMES),
    Operation(
        "POST", "/rollback", "Roll back to an earlier configuration.", _rollback, _OUTCOMES, takes={JSON: Rollback}
    ),
    Operation(
        "GET",
        "/config/history",
        "The configurations that are kept for a rollback, newest first.",
        _telling(lambda node: node.config_history()),
        {200: ConfigHistory},
    ),
    Operation(
        "GET",
        "/config/history/{generation}",
        "The changes from a kept configuration to the active one, without secrets.",
        _config_changes,
        {200: ConfigChanges},
    ),
    Operation(
        "GET",
        "/revocations",
        "The number of revoked tokens, subjects and sessions, and the latest revocations.",
        _telling(lambda node: node.revocations()),
        {200: Revocations},
    ),
    Operation(
        "POST",
        "/revocations",
        "Revoke a token, or all tokens that a subject has until now, on all workers and nodes.",
        _revoke,
        {200: Revoked},
        takes={JSON: revocations.Revocation},
    ),
    Operation(
        "GET",
        "/cache",
        "The stores of the response cache, and the objects in memory that are found most often.",
        _cache,
        {200: CacheInfo},
        asks={"objects": "How many objects of each store are shown: 20 by default, 100 at most."},
    ),
    Operation(
        "POST",
        "/cache/purge",
        "Purge objects of the response cache, on all workers and nodes.",
        _purge_cache,
        {200: CachePurged},
        takes={JSON: cache_purges.CachePurge},
    ),
    Operation(
        "POST",
        "/tap",
        "Tap: stream requests and responses with their bodies as they end, a line of JSON each, without secrets.",
        _tap,
        {200: NDJSON},
        takes={JSON: TapRequest},
    ),
    Operation(
        "GET",
        "/stories",
        "Stories of failed, slow and debugged requests, newest first.",
        list_stories,
        {200: StoryList},
        asks=QUERY_PARAMETERS_OF_STORIES,
    ),
    Operation(
        "GET",
        "/stories/{id}",
        "The story of a request, by its request id, trace id, debug id or number: filters, attempts and timings.",
        one_story,
        {200: Story},
    ),
    Operation(
        "POST",
        "/debug",
        "Make a debug token: a request with it in `X-Fastgw-Debug` is answered with its story.",
        _new_debug_token,
        {200: DebugTokenMade},
        takes={JSON: DebugWanted},
    ),
    Operation(
        "GET",
        "/quotas",
        "The quotas and their usage.",
        _quotas,
        {200: Quotas},
        asks={
            "consumer": "A consumer: shows its usage of quotas by consumer.",
        },
        repeats={
            "key": "An address, host, route, or value of a header, cookie or claim: shows its usage of these quotas. "
            "Repeated, in their order, for quotas by several.",
        },
    ),
    Operation(
        "GET",
        "/analytics",
        "Analytics: requests by route, consumer, plan, status or method, over minutes to weeks.",
        _analytics,
        {200: Analytics},
        asks=QUERY_PARAMETERS,
    ),
    Operation(
        "GET",
        "/analytics.csv",
        "Analytics as CSV, for spreadsheets.",
        _analytics_csv,
        {200: CSV},
        asks=QUERY_PARAMETERS,
    ),
    Operation(
        "GET",
        "/limits",
        "Usage of limits and of the shared memory that holds their counters.",
        _limits,
        {200: Limits},
    ),
    Operation(
        "POST",
        "/quotas/reset",
        "Reset the usage of a quota in this period.",
        _reset_quota,
        {200: QuotaWasReset},
        takes={JSON: QuotaReset},
    ),
    Operation(
        "POST",
        "/explain",
        "Explain how a request would be routed and why, without sending it.",
        _explain,
        {200: Explained},
        takes={JSON: RequestToExplain},
        reads=True,
    ),
    Operation(
        "POST",
        "/recordings",
        "Begin to record requests, without their credentials. One recording at a time.",
        _begin_recording,
        {200: RecordingBegun},
        takes={JSON: RecordingWanted},
    ),
    Operation(
        "GET",
        "/recordings/{id}",
        "Fetch the next records, as soon as there are any, for `fastgw record`, which encrypts them.",
        _fetch_records,
        {200: MESSAGE_PACK},
        consumes=True,
    ),
    Operation("DELETE", "/recordings/{id}", "End a recording.", _end_recording, {200: RecordingEnded}),
    Operation(
        "POST",
        "/connections/{id}",
        "Send a message to a connection of a WebSocket API: a text message from JSON, a binary one from bytes.",
        _send_to_connection,
        {200: ConnectionDone},
        takes={JSON: bytes, BYTES: bytes},
        reads=True,
    ),
    Operation(
        "GET", "/connections/{id}", "Status of a connection of a WebSocket API.", _connection, {200: ConnectionStatus}
    ),
    Operation(
        "DELETE",
        "/connections/{id}",
        "Close a connection of a WebSocket API.",
        _close_connection,
        {200: ConnectionDone},
    ),
    Operation(
        "POST", "/drain", "Drain: finish requests in flight, accept no new ones, and stop.", _drain, {202: Draining}
    ),
    Operation("GET", "/metrics", "Metrics for Prometheus.", _metrics, {200: (PROMETHEUS, OPENMETRICS)}),
    Operation("GET", "/openapi.json", "This OpenAPI document.", _openapi, {200: dict[str, Any]}),
)
"""Operations in the order of the document."""
