"""Hooks of the filter: a request is matched by path and HTTP method, before anything of its body is read."""

from typing import Final, NamedTuple, final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.exchange.grpc_status import message_of
from fastgw.filters.api.coded_bodies import refuse_coded_body
from fastgw.filters.policies.grpc_transcode.descriptors import Binding
from fastgw.filters.policies.grpc_transcode.json_input import InvalidRequest
from fastgw.filters.policies.grpc_transcode.messages import RequestReader, is_http_body
from fastgw.filters.policies.grpc_transcode.transcoding import Status, Transcoding, TranscodingUse
from fastgw.upstream.forwarding.forward_action import CallRecorder, Forward

_RPC: Final = (b"application/grpc", b"application/connect+", b"application/proto")
_JSON: Final = frozenset((b"application/json", b"text/json"))
_LINES: Final = frozenset((b"application/x-ndjson", b"application/ndjson", b"application/jsonl"))


class Call(NamedTuple):
    """Request that is a call."""

    binding: Binding
    reader: RequestReader

    @property
    def description(self) -> str:
        return f"a call of {self.binding.method.name}, by {self.binding.rule}"


@final
class Transcoder:
    """A use of the filter: its hooks."""

    def __init__(self, use: TranscodingUse) -> None:
        self._use = use
        self._calls: dict[Exchange, Call] = {}

    def request(self, exchange: Exchange) -> Reply | None:
        call = self._call_of(exchange)
        if isinstance(call, Call):
            self._calls[exchange] = call
            return None
        return call

    def would(self, exchange: Exchange) -> Reply | None:
        call = self._call_of(exchange)
        return None if isinstance(call, Call) else call

    def explain(self, exchange: Exchange) -> str:
        call = self._call_of(exchange)
        return call.description if isinstance(call, Call) else "it is not transcoded"

    def translate(self, exchange: Exchange, forward: Forward) -> bool:
        if not speaks_grpc(forward):
            return False  # of a fallback
        call = self._calls.get(exchange) or self._call_of(exchange)
        if not isinstance(call, Call):
            return False
        Transcoding(self._use, call.binding, call.reader, exchange, forward).begin()
        return True

    def reply(self, exchange: Exchange, reply: Reply) -> Reply:
        """Answer a call as the upstream would with the status of a reply, if it has one."""
        code = reply.grpc_status
        if code is None or exchange not in self._calls:
            return reply
        exchange.grpc_status = code.name
        return Status(code, message_of(reply.fault, reply.status)).reply(self._use, reply.fault)

    def finish(self, exchange: Exchange) -> None:
        self._calls.pop(exchange, None)

    def _call_of(self, exchange: Exchange) -> Call | Reply | None:
        """Return the call that a request is, or the reply to one that is none; None: it is not transcoded."""
        action = None if exchange.route is None else exchange.route.action
        if not isinstance(action, Forward) or not speaks_grpc(action) or _is_rpc(exchange):
            return None
        path = exchange.path if action.path_of is None else action.path_of(exchange)
        found, allowed = self._use.api.table.find(path, exchange.method)
        if found is None:
            if not allowed:
                return exchange.refuse(Fault.ROUTE_NOT_FOUND, "No method of the service has this path.")
            names = allowed | {b"HEAD"} if b"GET" in allowed else allowed
            return exchange.refuse(Fault.METHOD_NOT_ALLOWED, fields=((b"Allow", b", ".join(sorted(names))),))
        binding = found.get(exchange.method)
        assert binding is not None
        refusal = _refuse_content(exchange, binding)
        if refusal is not None:
            return refusal
        query = exchange.query if exchange.query_sent is UNCHANGED_QUERY else exchange.query_sent
        try:
            reader = RequestReader(binding, found.segments, query, self._use.format, self._use.api)
        except InvalidRequest as invalid:
            return exchange.refuse(Fault.BAD_REQUEST, str(invalid))
        return Call(binding, reader)


def speaks_grpc(forward: Forward) -> bool:
    return isinstance(forward, Forward | CallRecorder) and forward.upstream.settings.protocol == "grpc"


def _is_rpc(exchange: Exchange) -> bool:
    """Whether a request is a call already: of gRPC, of gRPC-Web, or of Connect."""
    kind = exchange.field(b"content-type")
    if kind is not None and kind.lower().startswith(_RPC):
        return True
    return exchange.field(b"connect-protocol-version") is not None or b"connect=v1" in (exchange.query or b"").split(
        b"&"
    )


def _refuse_content(exchange: Exchange, binding: Binding) -> Reply | None:
    """Refuse a body that does not say that it is JSON: pages of other origins may send such without asking. No body is
    taken with a coding: a message of gRPC has no place to name it.
    """
    if exchange.request_body is None or binding.body is None:
        return None
    coded = refuse_coded_body(exchange)
    if coded is not None or is_http_body(binding.method.input, binding.body):
        return coded
    value = exchange.field(b"content-type")
    if value is None:
        return None
    kind = value.partition(b";")[0].strip().lower()
    if kind in _JSON or (kind.startswith(b"application/") and kind.endswith(b"+json")):
        return None
    if binding.method.client_streams and kind in _LINES:
        return None
    expected = "application/x-ndjson" if binding.method.client_streams else "application/json"
    return exchange.refuse(Fault.UNSUPPORTED_MEDIA_TYPE, f"Expected the content type {expected}.")
