"""explain: how the gateway processes a request, found by running the same steps without a network.

The head is parsed, the filters' steps run and the route is looked up as in `downstream`; only the last step differs:
the request for the upstream is shown instead of sent.
"""

import inspect
import re
import ssl
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from msgspec import structs

from fastgw.admin.explanation import Explanation, Step
from fastgw.composition.action import ComposeAction
from fastgw.config.base.value_types import Trait, write_duration, write_size
from fastgw.config.settings import gateway as config
from fastgw.downstream import Listener
from fastgw.downstream.http1.rejected_head import rejected_head
from fastgw.downstream.tcp.routes import TcpRoutes
from fastgw.downstream.tls.presented import describe_certificate
from fastgw.errors import Fault, fault_of
from fastgw.exchange import Chain, Exchange, FilterInstance, Reply, Response, Route, problem
from fastgw.exchange.body_stages import BodyHook
from fastgw.exchange.explain_exchange import OpenExchange, OpenShadow
from fastgw.exchange.filter_steps import abandon, checked
from fastgw.exchange.request_keys import cookie, reader
from fastgw.exchange.shadow_exchange import Nobody, ShadowRun
from fastgw.exchange.staged_body import drop_ranges
from fastgw.files.action import FilesAction
from fastgw.filters.api import Phase, secret_names
from fastgw.forwarded_headers import client_address
from fastgw.functions.action import LambdaAction
from fastgw.gateway.nearest_route import nearest
from fastgw.gateway.tables import Gateway
from fastgw.http.fields import Fields, folded
from fastgw.http.http1 import serializer
from fastgw.http.http1.parser import parse_request
from fastgw.http.http1.reserved_fields import OWN_FIELDS
from fastgw.http.malformed import Malformed
from fastgw.net.client_certificate import ClientCertificate
from fastgw.net.client_hello import ClientHello
from fastgw.net.pem import decoded
from fastgw.observe.access_log.secret_names import SecretNames, masker
from fastgw.observe.tracing.otlp_encoder import OtlpEncoder
from fastgw.observe.tracing.spans import SpanBuilder
from fastgw.observe.tracing.tracer import Tracer
from fastgw.operator_events import silently
from fastgw.pipeline.route_selection import (
    OtherRoute,
    SelectedRoute,
    choose,
    find,
    other_routes,
    preflighted_request,
    too_long,
)
from fastgw.routing.table import Candidate
from fastgw.upstream.forwarding.fallback import Fallback
from fastgw.upstream.forwarding.forward_action import CallRecorder, Forward, is_translated
from fastgw.upstream.policies.retry import CONNECT_FAILURE, IDEMPOTENT, SAFE
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream
from fastgw.websocket_api.action import WebsocketApiAction

_OF_HTTP1: Final = frozenset(
    (b"host", b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"proxy-connection")
)
"""Headers of the text of a head that are not sent over HTTP/2 (RFC 9113 section 8.2.2); `:authority` is the host."""

_OFFERED: Final = (b"h2", b"http/1.1")
"""Protocols that the client of an https URL offers by ALPN, as browsers and curl do."""


class _Shown:
    """Formatter of heads: the values of secret headers and parameters are `***`."""

    def __init__(self, redact: Iterable[str]) -> None:
        self._redact = {*redact}
        self._names = SecretNames(self._redact)
        self._mask = self._names.mask

    def hide(self, links: Iterable[FilterInstance]) -> None:
        """Hide the values that these filters treat as secrets."""
        self._redact |= {name for link in links for name in secret_names(link.use.settings)}
        self._names = SecretNames(self._redact)
        self._mask = self._names.mask

    def head(self, head: bytes) -> tuple[str, ...]:
        """Return the request line and the header lines after it."""
        request_line, _, fields = head.partition(b"\r\n")
        shown = b" ".join(self._mask(word) or b"" for word in request_line.split(b" "))
        return (shown.decode("latin-1"), *self.fields(fields))

    def http2_head(self, head: bytes, scheme: str) -> tuple[str, ...]:
        """Return the fields of a request over HTTP/2 for its head as text: pseudo-headers, then names in lower case."""
        request_line, _, fields = head.partition(b"\r\n")
        method, path, _ = request_line.split(b" ")
        named = [line.partition(b":")[::2] for line in fields.split(b"\r\n") if line]
        authority = next((value.strip() for name, value in named if name.lower() == b"host"), b"")
        sent = (self.line(name.lower(), value.strip(b" \t")) for name, value in named if name.lower() not in _OF_HTTP1)
        return (
            f":method: {method.decode('latin-1')}",
            f":scheme: {scheme}",
            f":path: {(self._mask(path) or b'').decode('latin-1')}",
            *((f":authority: {authority.decode('latin-1')}",) if authority else ()),
            *sent,
        )

    def path(self, path: bytes) -> str:
        return (self._mask(path) or b"").decode()

    def query(self, query: bytes | None) -> str:
        shown = self._mask(query)
        return "none" if shown is None else shown.decode("latin-1")

    def fields(self, lines: bytes) -> tuple[str, ...]:
        """Return header lines, each with its CRLF, as they were sent: the space after the colon may be missing."""
        named = (line.partition(b":") for line in lines.split(b"\r\n") if line)
        return tuple(self.line(name, value.strip(b" \t")) for name, _, value in named)

    def line(self, name: bytes, value: bytes) -> str:
        shown = b"***" if self._names.has_header(name.lower()) else self._mask(value) or b""
        return f"{name.decode('latin-1')}: {shown.decode('latin-1')}"

    def differences(
        self, before: tuple[tuple[bytes, bytes], ...], after: tuple[tuple[bytes, bytes], ...]
    ) -> tuple[str, ...]:
        """Return the changes of fields."""
        gone = tuple(f"no {name.decode()}" for name, _ in before if name not in dict(after))
        return gone + tuple(self.line(name, value) for name, value in after if (name, value) not in before)


class _Listening(Nobody):
    """A client side that notes whether it was answered."""

    def __init__(self) -> None:
        self.answered = False

    def answer(self, response: Response, payload: bytes, ended: bool) -> None:
        self.answered = True


def certificate_in(file: str) -> ClientCertificate:
    """Return the certificate in a PEM file, as a client would present it. Raises `ValueError`."""
    try:
        contents = Path(file).read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    return certificate_of(contents, file)


def certificate_of(pem: bytes, name: str) -> ClientCertificate:
    """The first certificate in this text. `name`: for errors. Raises `ValueError`."""
    try:
        der = ssl.PEM_cert_to_DER_cert(pem[pem.index(b"-----BEGIN CERTIFICATE") :].decode())
        return ClientCertificate.of(der, decoded(pem))
    except (ssl.SSLError, ValueError) as error:  # SSLError is an OSError, too
        raise ValueError(f"{name}: it contains no certificate; expected a PEM file") from error


def _check_client(address: str) -> None:
    try:
        ip_address(address)
    except ValueError as error:
        raise ValueError(f'"{address}" is not the address of a client; expected an IPv4 or IPv6 address') from error


def _check_text(argument: str, shown: str) -> None:
    """Check that an argument of the command line was UTF-8: other bytes are surrogates in it. `shown`: in the error."""
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        shown = shown.encode("utf-8", "backslashreplace").decode()
        raise ValueError(f"{shown} is not UTF-8; expected UTF-8, other bytes of a URL as %FF, for example") from error


def _check_line(argument: str, shown: str) -> None:
    """Check that an argument has no line break, with which it would be further lines of the head. `shown`: in the
    error, without the argument, whose lines would be further lines of the message.
    """
    if "\r" in argument or "\n" in argument:
        raise ValueError(f"{shown} contains a line break; expected it in one line")


def request_bytes(method: str, url: str, fields: Iterable[str]) -> bytes:
    """Return the request head that a client sends for `METHOD URL -H 'Name: value'…`.

    Raises `ValueError` for a URL without host or with an invalid port, a header without colon, text that is not UTF-8,
    and line breaks. The gateway answers everything else, also what is invalid.
    """
    _check_line(method, "the method")
    _check_line(url, "the URL")
    _check_text(method, f'"{method}"')
    _check_text(url, f'"{url}"')
    lines = [line.strip() for line in fields]
    for line in lines:
        name = re.split("[:=\r\n]", line, maxsplit=1)[0]
        _check_text(line, f'header "{name}"')  # without its value, which may be a secret
        _check_line(line, f'header "{name}"')
    no_url = f'"{url}" is not a URL; expected one such as "http://api.example.com/users/7?debug=1"'
    try:
        split = urlsplit(url)
    except ValueError as error:  # brackets around something other than an IPv6 address
        raise ValueError(no_url) from error
    if split.scheme not in ("http", "https") or not split.netloc:
        raise ValueError(no_url)
    try:
        split.port  # noqa: B018  # reading it checks it
    except ValueError as error:
        raise ValueError(f'"{url}" has an invalid port; expected a number from 0 to 65535') from error
    for line in lines:
        if ":" not in line:
            name = line.partition("=")[0]
            raise ValueError(f'"{name}" has no colon; expected a header such as "X-Tenant: t1"')
    rest = url.partition("://")[2].partition("#")[0]
    target = rest[len(split.netloc) :] or "/"
    if target.startswith("?"):
        target = "/" + target
    if not any(line.lower().startswith("host:") for line in lines):
        lines.insert(0, f"Host: {split.netloc.rpartition('@')[2]}")
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode()


@silently()  # exceptions of filters are part of the explanation
def explain(
    gateway: Gateway,
    method: str,
    url: str,
    fields: Sequence[str] = (),
    client: str = "127.0.0.1",
    listener: str | None = None,
    certificate: ClientCertificate | None = None,
    routes: Sequence[config.Route] = (),
    not_ordered: str = "",
    state: Callable[[Upstream], Fault | None] = lambda upstream: None,
) -> Explanation:
    """Explain the result of this request from `client`. `listener`: None = the one with the URL's port, and if
    there is none, the first: a proxy in front may have that port, and end TLS.

    `certificate`: client certificate, which counts as verified. `routes`: routes of the configuration, to name the
    nearest one if none matches. `not_ordered`: reason why the gateway orders no certificate on demand for the URL's
    host now; "" = there is none. `state`: called before a target of an upstream is selected: gives its targets their
    present state, and returns the fault if no request passes its circuit breaker. Raises `ValueError` if the URL, the
    client or the listener's name is invalid, or if the listener requests no client certificate.
    """
    _check_client(client)
    raw = request_bytes(method, url, fields)
    chosen = _listener(gateway, url, listener)
    explanation = Explanation(listener=chosen.name)
    if chosen.tls is not None:
        host = urlsplit(url).hostname or ""
        explanation.server_certificate = describe_certificate(chosen.tls, gateway.config.acme, host, not_ordered)
    if chosen.tcp is not None:
        return _of_connection(explanation, chosen.tcp, urlsplit(url).hostname or "", client)
    uses_tls = urlsplit(url).scheme == "https"
    if listener is None and uses_tls != (chosen.tls is not None) and chosen.address.port == _port(url):
        explanation.client = client
        if uses_tls:
            explanation.detail = (
                "TLS handshake fails: this listener is in clear text; expected http:// in the URL, or --listener "
                f"{chosen.name} if a proxy in front ends TLS"
            )
        else:
            explanation.status, explanation.fault = Fault.TLS_REQUIRED.status, Fault.TLS_REQUIRED.label
            explanation.detail = "this listener uses TLS; expected https:// in the URL"
        return explanation
    shown = _Shown(name for access_log in gateway.config.access_logs for name in access_log.redact)
    peer = chosen.peer((client, 0), chosen.address.port or 0, chosen.tls is not None, certificate=certificate)
    tls = gateway.config.listeners[chosen.name].tls
    client_auth = None if tls is None else tls.client_auth
    if certificate is not None and client_auth is None:
        raise ValueError(f"listener {chosen.name} does not request client certificates")
    if certificate is None and client_auth is not None and client_auth.mode == "required":
        explanation.client = client
        explanation.detail = "TLS handshake fails: this listener requires a client certificate (--certificate FILE)"
        return explanation
    try:
        if len(raw) > gateway.limits.header_bytes:
            fault = too_long(raw, gateway.limits.header_bytes)
            raise Malformed(fault.detail, fault.status)
        head = parse_request(raw, gateway.limits.header_count)
    except Malformed as malformed:
        explanation.client, explanation.detail = client, malformed.reason
        exchange = OpenExchange(rejected_head(raw), _Listening(), chosen, peer, chosen.early)
        exchange.reply(problem(fault_of(malformed), malformed.reason))
        return _describe_response(explanation, exchange, shown)
    OWN_FIELDS.take_out_of(head)
    if not peer.trusted:
        explanation.reserved = tuple(name.decode() for name in chosen.reserved.take_out_of(head))
    exchange = OpenExchange(head, _Listening(), chosen, peer, chosen.early)
    exchange.client_ip = client_address(head, peer, chosen.trusts)
    traces = gateway.config.telemetry.traces
    if traces is not None:
        builder = SpanBuilder(OtlpEncoder().encode, masker(traces.redact), {})
        exchange.trace = Tracer(traces, gateway.workers, builder, lambda spans: None).begin_trace(head)
    explanation.client = exchange.client_ip
    if gateway.limits.body_bytes is not None and (head.body_length or 0) > gateway.limits.body_bytes:
        exchange.reply(problem(Fault.BODY_TOO_LARGE))
        return _describe_response(explanation, exchange, shown)

    shown.hide(chosen.early.links)
    exchange.answered_by = None
    rehearsal = ShadowRun()
    explanation.early, reply = _run(chosen.early.links, exchange, rehearsal, shown)
    if reply is None:
        found = find(exchange, chosen.router)
        others = _other_routes(exchange, chosen, found)
        reply = choose(exchange, chosen.router)
        explanation.could_be = _could_be(found, others, exchange.route, shown)
        if exchange.route is not None:
            candidates = chosen.router.candidates(exchange)
            if not candidates or candidates[0].route.name != exchange.route.name:
                candidates = chosen.router.candidates(preflighted_request(exchange))
            shown.hide(exchange.route.chain.links)
            explanation.route = exchange.route.name
            explanation.matched = _matched(candidates[0])
            if candidates[0].route.division is not None:
                explanation.split = candidates[0].route.division.divider.describe_split(exchange)
            explanation.beat = tuple(f"{each.route.name} ({each.weakness})" for each in candidates[1:])
            explanation.early = _nearest_ids(explanation.early, chosen.early, exchange.route.chain)
            later = _later_links(exchange.route.chain, chosen.early)
            if reply is None:
                explanation.filters, reply = _run(later, exchange, rehearsal, shown)
        if exchange.answered_by is not None and exchange.answered_by is exchange.chain.preflight:
            assert reply is not None
            name = exchange.chain.name_of(exchange.answered_by)
            explanation.filters = (Step(name, f"answers {reply.status}, as to a preflight"),)
    steps = (*explanation.early, *explanation.filters)
    explanation.provided = tuple(
        step.filter.partition(" ")[0] for step in steps if (step.waits or step.depends_on) and not step.shadow
    )
    if reply is not None:
        exchange.reply(reply)
        if reply.fault is Fault.ROUTE_NOT_FOUND and exchange.route is None:
            explanation.nearest = nearest(routes, exchange, chosen.name)
        return _describe_response(explanation, exchange, shown)
    assert exchange.route is not None
    action = exchange.route.action
    explanation.buffers = tuple(_buffers(exchange.route.chain.links))
    drop_ranges(exchange)
    if isinstance(action, Forward):
        explanation.upstream = action.upstream.name
        closed_by = state(action.upstream)
        target = None if closed_by is not None else action.upstream.balancer.pick(exchange)
        if target is None:
            exchange.fail(closed_by or action.upstream.unavailable())
            return _describe_response(explanation, exchange, shown)
        explanation.target = target.label if target.scheme == "unix" else f"{target.scheme}://{target.label}"
        explanation.targets = len(action.upstream.targets)
        explanation.ineligible = explanation.targets - len(action.upstream.in_use)
        explanation.picked_by = _picked_by(action.upstream, target, exchange, shown)
        recorder = CallRecorder(action)
        if is_translated(exchange, recorder):
            if exchange.response is not None:
                return _describe_response(explanation, exchange, shown)
        elif (action.grpc and action.refuse_non_call(exchange, any_version=True)) or action.refuse_path(exchange):
            return _describe_response(explanation, exchange, shown)
        sent = recorder.action.request(recorder.call or exchange, target)
        if action.upstream.settings.protocol in ("http2", "grpc"):
            explanation.sends = shown.http2_head(sent, "http" if target.tls is None else "https")
        else:
            explanation.sends = shown.head(sent)
        fallback = exchange.route.fallback
        fallback_text = (f"fallback: {fallback.description}",) if isinstance(fallback, Fallback) else ()
        explanation.fails = (*_tried_again(action, exchange), *fallback_text)
        return explanation
    if isinstance(action, ComposeAction):
        explanation.parts = tuple(action.describe())
        return explanation
    if isinstance(action, LambdaAction):
        explanation.function = action.describe()
        return explanation
    if isinstance(action, WebsocketApiAction):
        if action.refuse(exchange):
            return _describe_response(explanation, exchange, shown)
        explanation.events = tuple(action.describe())
        return explanation
    if isinstance(action, FilesAction):
        explanation.file = action.answer_waiting(exchange)
    else:
        action.begin(exchange)
    return _describe_response(explanation, exchange, shown)


def _buffers(links: Iterable[FilterInstance]) -> Iterator[str]:
    """Yield the filters that need a whole body, each with the body and its maximum size."""
    for link in links:
        for name, hook in (("request", link.hooks.request_body), ("response", link.hooks.response_body)):
            if isinstance(hook, BodyHook) and hook.bound is not None:
                yield f"{link.use.name}: the whole body of the {name}, up to {write_size(hook.bound)}"


def _picked_by(upstream: Upstream, target: Target, exchange: Exchange, shown: _Shown) -> str:
    balancing = upstream.settings.load_balancing
    sticky, cookies = balancing.sticky, upstream.cookies
    if cookies is not None and cookies.named(exchange.head) == cookies.name_of(target):
        return f"cookie {balancing.sticky.cookie}" if balancing.sticky is not None else ""
    how: str = balancing.algorithm
    if how in ("ip_hash", "consistent_hash"):
        how = f"{how} on {_hashed(balancing.hash_on, exchange, shown)}"
    if sticky is not None:
        unknown = (
            ", unless its cookie is valid there"
            if cookies is None and cookie(exchange.head, sticky.cookie.encode())
            else ""
        )
        how += f", sets the cookie {sticky.cookie}{unknown}"
    return how


def _tried_again(action: Forward, exchange: Exchange) -> Iterator[str]:
    """Yield the settings for retries, of the upstream and the route, and for hedging, if configured."""
    upstream = action.upstream.settings
    retries, hedge, breaker = action.retries, upstream.hedge, upstream.circuit_breaker
    if action.own_timeouts is not None:
        own = action.own_timeouts
        given = ((name, getattr(own, name)) for name in own.__struct_fields__)
        times = ", ".join(f"{name} {write_duration(value)}" for name, value in given if value is not None)
        yield f"timeouts of the route: {times or 'none'}"
    if retries != config.Retries():
        repeats = retries.non_idempotent or exchange.method in IDEMPOTENT
        conditions = [each for each in retries.conditions if repeats or each == CONNECT_FAILURE]
        if retries.max and conditions:
            times = "once" if retries.max == 1 else f"up to {retries.max} times"
            yield f"retries: {times}, after {', '.join(conditions)}"
        else:
            yield "retries: none" + ("" if repeats else f", as {exchange.method.decode()} may not be repeated")
    if hedge is not None and exchange.method in SAFE and exchange.request_body is None:
        after = hedge.after if isinstance(hedge.after, str) else write_duration(hedge.after)
        yield f"hedge: the request is also sent to another target after {after}"
    if breaker is not None:
        when = f"{breaker.error_rate:.0%} of {breaker.min_requests} or more in {write_duration(breaker.window)} fail"
        yield f"circuit_breaker: opens for {write_duration(breaker.open)} where {when}"


def _hashed(trait: Trait | None, exchange: Exchange, shown: _Shown) -> str:
    """Describe the hash key and its value in this request, secrets as `***`."""
    if trait is None or trait.kind == "ip":
        return f"ip {exchange.client_ip}"
    value = reader(trait)(exchange)
    if not value:
        return f"{trait}, which is missing: round robin"
    if trait.kind == "header":
        return f"header {shown.line(trait.name.encode(), value)}"
    return f"{trait} ***" if trait.kind == "cookie" else f"{trait} {value.decode('utf-8', 'replace')}"


def _listener(gateway: Gateway, url: str, name: str | None) -> Listener:
    # Listeners of a configuration that is not served may still have the previous tables.
    listeners = [Listener(each, table) for each, table in gateway.tables.items()]
    if not listeners:
        known = "those of `providers.kubernetes` are known to a running gateway only: ask its admin API (POST /explain)"
        raise ValueError(f"there are no listeners; {known}")
    if name is not None:
        for listener in listeners:
            if listener.name == name:
                return listener
        known = ", ".join(listener.name for listener in listeners)
        raise ValueError(f'there is no listener "{name}"; expected one of: {known}')
    split = urlsplit(url)
    port = _port(url)
    alike = [each for each in listeners if (each.tls is not None) == (split.scheme == "https")]
    others = [each for each in listeners if each not in alike]
    found = next((each for each in (*alike, *others) if each.address.port == port), None)
    of_requests = (each for each in (*alike, *others) if each.tcp is None)
    return found or next(of_requests, (*alike, *others)[0])


def _port(url: str) -> int:
    split = urlsplit(url)
    return split.port or (443 if split.scheme == "https" else 80)


def _of_connection(explanation: Explanation, routes: TcpRoutes, name: str, client: str) -> Explanation:
    """Explain the target of a connection of an HTTP client to a TCP listener. `name`: server name (SNI) of its
    ClientHello.
    """
    explanation.client = client
    route = routes.find(ClientHello(name, _OFFERED))
    assumed = ""
    if routes.selects_by_alpn:
        offered = " and ".join(protocol.decode() for protocol in _OFFERED)
        assumed = f"; assumed that the client offers {offered} (ALPN), which the routes depend on"
    if route is None:
        how = " (unrecognized_name)" if routes.needs_hello else ""
        explanation.detail = f'no route for the server name "{name}": the connection is closed{how}{assumed}'
        return explanation
    explanation.route = routes.name
    explanation.upstream = ", ".join(upstream.name for upstream in route.upstreams)
    targets = [target for upstream in route.upstreams for target in upstream.targets]
    labels = ", ".join(target.label for target in targets) or "none"
    how = ""
    if route.passes_through:
        explanation.server_certificate, how = "", ", with their TLS,"  # the certificate is that of the target
    of = "the upstream" if len(route.upstreams) == 1 else "an upstream, chosen at random by the shares"
    explanation.detail = f"connections are passed through{how} to the targets of {of}: {labels}{assumed}"
    return explanation


def _later_links(chain: Chain, early: Chain) -> tuple[FilterInstance, ...]:
    return tuple(link for link in chain.links if link not in early.links)


def _nearest_ids(steps: tuple[Step, ...], early: Chain, chain: Chain) -> tuple[Step, ...]:
    """Return the early steps; if the route replaces or drops the request id of one, its decision says so."""
    if chain.request_ids is early.request_ids:
        return steps
    decision = "the route has none" if chain.request_ids is None else "the route has its own"
    return tuple(
        structs.replace(step, decision=decision) if link.own.request and link.own.request.ids else step
        for step, link in zip(steps, early.links, strict=False)
    )


def _run(
    links: Iterable[FilterInstance], exchange: OpenExchange, rehearsal: ShadowRun, shown: _Shown
) -> tuple[tuple[Step, ...], Reply | None]:
    """Run the links' request steps one by one, and return a description of each."""
    steps = []
    for link in links:
        name = link.use.name if link.use.name == link.use.type else f"{link.use.name} ({link.use.type})"
        asked = _rehearse(link, exchange, rehearsal, shown) if link.use.shadow else _ask_filter(link, exchange, shown)
        decision = f"in shadow: {asked.decision}" if link.use.shadow else asked.decision
        steps.append(Step(name, decision, link.level, link.use.shadow, asked.waits, asked.depends_on))
        if link.use.shadow:
            continue
        if asked.reply is not None:
            exchange.answered_by = None if link.hooks.request is None else link.hooks.request.step
            return tuple(steps), asked.reply
        if asked.waits and link.use.settings.phase <= Phase.AUTHENTICATE:
            exchange.leave_open(link.use.name)
    return tuple(steps), None


class _ExplainedRequest(NamedTuple):
    """Decision of a filter, its response if any, and the service that the decision depends on."""

    decision: str
    reply: Reply | None = None
    waits: bool = False
    depends_on: str = ""


def _rehearse(link: FilterInstance, exchange: OpenExchange, rehearsal: ShadowRun, shown: _Shown) -> _ExplainedRequest:
    """Return the decision of a filter in shadow mode, with the client identity that earlier filters would set."""
    if link.own.request is not None and rehearsal.over:
        return _ExplainedRequest("not run: an earlier filter answers, or its decision is unknown")
    copy = OpenShadow(exchange)
    rehearsal.enter(copy)
    asked = _ask_filter(link, copy, shown)
    if asked.reply is not None or asked.waits:
        rehearsal.over = True
    elif not asked.depends_on:
        rehearsal.passed(copy)
    return asked


def _ask_filter(link: FilterInstance, exchange: OpenExchange | OpenShadow, shown: _Shown) -> _ExplainedRequest:
    hooks = link.own
    hook = hooks.request
    if hook is not None and hook.ids is not None and not link.use.shadow:
        return _ExplainedRequest(f"would send {'; '.join(shown.fields(hook.ids.line(exchange.request_id)))}")
    if hook is None:
        if hooks.request_body is not None:
            return _ExplainedRequest("runs on the body of the request")
        if hooks.translate is not None and (words := _words(link, exchange)):
            return _ExplainedRequest(f"pass ({words})")
        return _ExplainedRequest("runs on the response only")
    added, edited, query = exchange.request_added, tuple(exchange.headers), exchange.query_sent
    dropped = exchange.request_dropped
    exchange.why, exchange.looked = "", False
    outcome: Any = None
    raised: Exception | None = None
    try:
        outcome = hook.would(exchange) if callable(hook.would) else hook.step(exchange)
        if not inspect.isawaitable(outcome):
            outcome = checked(outcome)
    except Exception as error:  # the edge of a filter: its exception would be the response
        raised = error
    # Filters of this phase set the client's identity; they do not read it.
    looked = exchange.looked and link.use.settings.phase is not Phase.AUTHENTICATE
    depends_on = " or ".join(exchange.asked) if looked else ""
    depends = f"depends on the consumer that {depends_on} authenticates"
    if raised is not None and not looked:
        error_text = f"{type(raised).__name__}: {raised}".removesuffix(": ")
        if hooks.start is not None:  # its state in a worker is not available here
            return _ExplainedRequest(f"known to a running gateway only ({error_text})", waits=True)
        return _ExplainedRequest(f"answers 500 (internal: it raises {error_text})", problem(Fault.INTERNAL))
    if isinstance(outcome, Reply) and not looked:
        label = outcome.fault.label if outcome.fault else ""
        reasons = ": ".join(filter(None, (label, exchange.why)))
        return _ExplainedRequest(f"answers {outcome.status}{f' ({reasons})' if reasons else ''}", outcome)
    if raised is not None or isinstance(outcome, Reply):
        exchange.why = ""
        return _ExplainedRequest(depends, depends_on=depends_on)
    if outcome is not None:
        abandon(outcome)
        whom = f" {hook.asks}" if hook.asks else ""
        return _ExplainedRequest(
            f"would have to call{whom}, which explain does not do", waits=True, depends_on=depends_on
        )
    words = depends if looked else _words(link, exchange)
    lines = _lines_added(added, exchange.request_added)
    gone = {folded(name) for name in exchange.request_dropped - dropped}
    gone -= {folded(name) for name, _ in Fields.parse(lines, 0)}
    changes = tuple(f"no {name.decode()}" for name in dict(edited) if folded(name) in gone)
    changes += shown.fields(lines) + shown.differences(edited, tuple(exchange.headers))
    if exchange.query_sent is not query:
        changes += (f"another query: {shown.query(exchange.query_sent)}",)
    if looked and not changes:
        return _ExplainedRequest(depends, depends_on=depends_on)
    decision = f"would send {'; '.join(changes)}" if changes else "pass"
    return _ExplainedRequest(f"{decision}{f' ({words})' if words else ''}", depends_on=depends_on)


def _lines_added(before: bytes, after: bytes) -> bytes:
    """Return the header lines that a filter has added to others, of which it may have removed some."""
    earlier = before.splitlines(keepends=True)
    added = []
    for line in after.splitlines(keepends=True):
        if line in earlier:
            earlier.remove(line)
        else:
            added.append(line)
    return b"".join(added)


def _words(link: FilterInstance, exchange: Exchange) -> str:
    """Return the reason why a filter lets a request pass, if it gives one."""
    if link.own.explain is None:
        return ""
    try:
        return link.own.explain(exchange)
    except Exception as error:  # the edge of a filter: only its explanation is missing
        return f"cannot say why: {type(error).__name__}"


def _other_routes(exchange: Exchange, listener: Listener, found: SelectedRoute) -> Collection[OtherRoute]:
    """Return the other routes, each once."""
    others: dict[str, OtherRoute] = {}
    with suppress(Malformed):  # a path that is too long is reported where it is rejected
        for other in other_routes(exchange, listener.router, found):
            others.setdefault(other.name, other)
    return others.values()


def _could_be(
    found: SelectedRoute, others: Collection[OtherRoute], taken: Route | None, shown: _Shown
) -> tuple[str, ...]:
    """Return the other routes that the path may match. `taken`: the selected route, if the request is not rejected."""
    if found.route is None or not others:
        return ()
    shown.hide(found.route.chain.links)
    listed = tuple(f"{each.name}, as {shown.path(each.path)} ({each.done})" for each in others)
    return listed if taken is not None else (f"{found.route.name}, as it came", *listed)


def _matched(candidate: Candidate[Any]) -> str:
    host = f"host {candidate.host.text}" if candidate.host else "any host"
    path = f"path {candidate.path.text}" if candidate.path else "any path"
    params = ", ".join(f"{name}={value.decode()}" for name, value in candidate.params.items())
    return f"{host}, {path}{f' ({params})' if params else ''}"


def _describe_response(explanation: Explanation, exchange: Exchange, shown: _Shown) -> Explanation:
    response = exchange.response
    assert response is not None
    explanation.status = response.status
    explanation.fault = exchange.fault.label if exchange.fault else ""
    if exchange.fault is Fault.INTERNAL or explanation.target:  # nothing before it has given the reason
        explanation.detail = exchange.why
    dropped, lines = response.dropped, response.added
    if exchange.id_shown:
        dropped, lines = dropped | serializer.REQUEST_IDS, lines + serializer.id_line(exchange.id_shown)
    block = response.headers.render(dropped, serializer.names_alike(dropped))
    explanation.fields = shown.fields(block + lines)
    return explanation


def as_text(explanation: Explanation) -> str:
    """Return the explanation as text: one topic per line, in processing order."""
    lines: list[tuple[str, str]] = [("listener", f"{explanation.listener}   client {explanation.client or '?'}")]
    if explanation.server_certificate:
        lines.append(("tls", explanation.server_certificate))
    if explanation.reserved:
        names = ", ".join(explanation.reserved)
        lines.append(("dropped", f"{names}   (`reserved_headers`: the peer is not in `trusted_proxies`)"))
    if explanation.route:
        beat = f"; beat: {', '.join(explanation.beat)}" if explanation.beat else ""
        lines.append(("route", f"{explanation.route}   {explanation.matched}{beat}"))
    lines += [("could be" if not index else "", each) for index, each in enumerate(explanation.could_be)]
    if explanation.nearest:
        lines.append(("nearest", explanation.nearest))
    if explanation.split:
        lines.append(("split", explanation.split))
    for title, steps in (("early", explanation.early), ("filters", explanation.filters)):
        for index, step in enumerate(steps):
            level = f"   [{step.level}]" if step.level else ""
            lines.append((title if index == 0 else "", f"{step.filter} → {step.decision}{level}"))
    if explanation.provided:
        verb = "lets" if len(explanation.provided) == 1 else "let"
        lines.append(("provided", f"{', '.join(explanation.provided)} {verb} it pass"))
    if explanation.buffers:
        lines.append(("buffers", " · ".join(explanation.buffers)))
    if explanation.function:
        lines.append(("function", explanation.function))
    lines += [("parts" if not index else "", each) for index, each in enumerate(explanation.parts)]
    lines += [("events" if not index else "", each) for index, each in enumerate(explanation.events)]
    if explanation.target:
        how = f"{explanation.picked_by}, 1 of {explanation.targets}"
        if explanation.ineligible:
            eligible = explanation.targets - explanation.ineligible
            how = f"{explanation.picked_by}, 1 of {eligible} eligible of {explanation.targets}"
        lines.append(("target", f"{explanation.target}   ({how}; upstream {explanation.upstream})"))
        if explanation.sends:
            lines.append(("sends", " · ".join(explanation.sends)))
        if explanation.fails:
            lines.append(("fails", " · ".join(explanation.fails)))
    goes_on = explanation.target or explanation.parts or explanation.function or explanation.events
    if explanation.status or not goes_on:
        if explanation.file:
            lines.append(("file", explanation.file))
        fault = f" {explanation.fault}" if explanation.fault else ""
        if explanation.detail:
            fault += f" ({explanation.detail})"
        answer = f"{explanation.status}{fault}" if explanation.status else explanation.detail
        lines.append(("answers", " · ".join((answer, *explanation.fields))))
    return "\n".join(f"{title:<9} {text}".rstrip() for title, text in lines)
