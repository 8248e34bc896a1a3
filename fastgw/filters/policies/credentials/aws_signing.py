"""Signatures of AWS for requests to an API: they cover what the forward action sends."""

import time
from functools import partial
from hashlib import sha256
from typing import Final, final

from fastgw.aws.sigv4 import EMPTY_DIGEST, FIELDS, UNSIGNED, AwsKeys, AwsSigner, canonical_query
from fastgw.config.settings.credentials import AwsSigV4
from fastgw.errors import Fault
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.filters.api import Bounded, Env, Exchange, Hooks, Outcome, Reply
from fastgw.http.fields import folded, without_fields
from fastgw.upstream.client.subrequest import Subrequest
from fastgw.upstream.forwarding.forward_action import Forward

_ALIKE: Final = frozenset(map(folded, FIELDS))


def signing_hooks(settings: AwsSigV4, env: Env, removed: str | None) -> Hooks:
    """Return the hooks of the filter. `removed`: a header that is not forwarded; None: there is none. Raises
    `SecretError`, and `ValueError` without secrets.
    """
    token = "" if settings.session_token is None else env.secret(settings.session_token)
    keys = AwsKeys(env.secret(settings.access_key_id), env.secret(settings.secret_access_key), token)
    if not all(each.isascii() and each.isprintable() and " " not in each for each in keys):
        raise ValueError("the credentials have a character that no credentials of AWS have")
    dropped = FIELDS if removed is None else FIELDS | {removed.lower().encode()}
    use = _Signing(AwsSigner(keys, settings.region, settings.service), settings.sign_body, dropped)
    return Hooks(
        request=use.request,
        request_body=use.body if settings.sign_body else None,
        needs_body=Bounded(settings.body_bytes) if settings.sign_body else None,
        explain=partial(_explain, settings),
    )


def _explain(settings: AwsSigV4, exchange: Exchange) -> str:
    return f"the request is signed for {settings.service} in {settings.region}"


@final
class _Signing:
    """One use of the filter."""

    __slots__ = ("_dropped", "_signer", "_signs_bodies")

    def __init__(self, signer: AwsSigner, signs_bodies: bool, dropped: frozenset[bytes]) -> None:
        self._signer, self._signs_bodies, self._dropped = signer, signs_bodies, dropped

    def __repr__(self) -> str:
        return f"<aws_sigv4 {self._signer!r}>"

    def request(self, exchange: Exchange) -> Outcome:
        if exchange.request_body is not None and self._signs_bodies:
            return None  # once the body is there
        return self._sign(exchange, EMPTY_DIGEST if exchange.request_body is None else UNSIGNED)

    def body(self, exchange: Exchange, payload: bytes) -> Reply | None:
        return self._sign(exchange, sha256(payload).hexdigest())

    def _sign(self, exchange: Exchange, digest: str) -> Reply | None:
        forward = _forward_of(exchange)
        if forward is None:
            return exchange.refuse(Fault.INTERNAL, why="aws_sigv4: the request has no upstream")
        first, *others = forward.upstream.targets
        if any((each.host_header, each.base_path) != (first.host_header, first.base_path) for each in others):
            return exchange.refuse(Fault.INTERNAL, why="aws_sigv4: the targets have different hosts or base paths")
        exchange.keep_from_others(self._dropped)
        if exchange.request_added:
            exchange.request_added = without_fields(exchange.request_added, _ALIKE)
        exchange.request_dropped = exchange.request_dropped | self._dropped
        sent = exchange.query_sent
        query = exchange.query_sent = canonical_query(exchange.head.query if sent is UNCHANGED_QUERY else sent)
        target = forward.sent_target(exchange, first, query)
        assert target is not None  # only an unchanged query leaves it unchanged
        sent_host = forward.host_header(first)
        host = exchange.authority if sent_host is None else sent_host
        path = target.partition(b"?")[0]
        exchange.request_added += self._signer.sign(exchange.method, host, path, query, digest, time.time())
        return None


def _forward_of(exchange: Exchange) -> Forward | None:
    """Return the action by which the request is sent: of its route, or of a request that the gateway makes itself."""
    if isinstance(exchange.client, Subrequest):
        return exchange.client.forward
    action = None if exchange.route is None else exchange.route.action
    return action if isinstance(action, Forward) else None
