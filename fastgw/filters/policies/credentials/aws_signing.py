"""Signatures of AWS for requests to an API.

Rule: a request is signed last, when filters and caches have changed its query and headers: the signature covers what is
sent.
"""

import time
from functools import partial
from hashlib import sha256
from typing import Final, final

from fastgw.aws.sigv4 import EMPTY_DIGEST, FIELDS, UNSIGNED, AwsKeys, AwsSigner, canonical_query
from fastgw.config.settings.credentials import AwsSigV4
from fastgw.errors import Fault
from fastgw.exchange.body_relay import Relay
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.exchange.hooks import TranslateHook
from fastgw.filters.api import BodyHook, BodyStage, Bounded, Env, Exchange, Hooks, StageFactory
from fastgw.http.fields import Fields, folded, without_fields
from fastgw.upstream.client.response_action import ResponseAction
from fastgw.upstream.client.subrequest import Subrequest
from fastgw.upstream.forwarding.forward_action import CallRecorder, Forward

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
        request_body=BodyHook(
            StageFactory(_stage_of_body), needs=Bounded(settings.body_bytes) if settings.sign_body else None
        )
        if settings.sign_body
        else None,
        translate=TranslateHook(use.sign, signs=True),
        explain=partial(_explain, settings),
    )


class _Unchanged(BodyStage):
    """Stage of a body that is held until it was received completely, because its digest precedes it."""

    changed = False

    def feed(self, payload: bytes) -> bytes:
        return payload


def _stage_of_body(exchange: Exchange) -> BodyStage | None:
    """Return the stage of a request body. One that the gateway has made, such as an event of a function, is complete,
    and bounded by who has made it.
    """
    body = exchange.request_body
    is_made = type(exchange.client) is Subrequest and body is not None and body.whole_payload() is not None
    return None if is_made else _Unchanged()


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

    def request(self, exchange: Exchange) -> None:
        exchange.keep_from_others(self._dropped)
        exchange.request_dropped = exchange.request_dropped | self._dropped

    def sign(self, exchange: Exchange, forward: Forward | CallRecorder | ResponseAction) -> bool:
        if exchange.for_others is None:
            return False  # it is sent to another upstream
        action = forward.action if isinstance(forward, CallRecorder) else forward
        if not isinstance(action, Forward):
            exchange.fail(Fault.INTERNAL, why="aws_sigv4: the request has no upstream")
            return True
        first, *others = action.upstream.targets
        if any((each.host_header, each.base_path) != (first.host_header, first.base_path) for each in others):
            exchange.fail(Fault.INTERNAL, why="aws_sigv4: the targets have different hosts or base paths")
            return True
        sent = exchange.query_sent
        query = exchange.query_sent = canonical_query(exchange.head.query if sent is UNCHANGED_QUERY else sent)
        target = action.sent_target(exchange, first, query)
        assert target is not None  # only an unchanged query leaves it unchanged
        sent_host = action.host_header(first, exchange.head)
        host = exchange.authority if sent_host is None else sent_host
        digest = self._digest_of(exchange.request_body)
        if not digest:
            exchange.fail(Fault.INTERNAL, why="aws_sigv4: the body is not there as a whole, so it cannot be signed")
            return True
        path = target.partition(b"?")[0]
        exchange.request_added = without_fields(exchange.request_added, _ALIKE)
        raw = action.request(exchange, first)
        headers = Fields.parse(raw, raw.index(b"\n") + 1)
        received = frozenset(map(folded, exchange.head.received_names()))
        of_client = frozenset(name.lower() for name, _ in headers if folded(name) in received)
        lines = self._signer.sign(exchange.method, host, path, query, digest, time.time(), headers, of_client)
        exchange.request_added += lines
        return False

    def _digest_of(self, body: Relay | None) -> str:
        """Return the digest to sign; "": it is unknown, and services would accept any body with another one."""
        if body is None or body.length == 0:
            return EMPTY_DIGEST
        if not self._signs_bodies:
            return UNSIGNED
        if not body.ended or body.kept is None:
            return ""
        return sha256(b"".join(body.kept)).hexdigest()  # trailers are not part of it
