"""What is told of an exchange when it is over."""

from time import monotonic, time

from fastgw.exchange import Exchange
from fastgw.observe import Record


def record_of(exchange: Exchange) -> Record:
    """The record of an exchange that has just ended. 499: the client left before any answer."""
    head, route, body, fault = exchange.head, exchange.route, exchange.request_body, exchange.fault
    return Record(
        ended_date=time(),
        client=exchange.client_ip,
        listener=exchange.listener.name,
        method=exchange.method,
        scheme=exchange.scheme,
        host=exchange.host,
        path=exchange.raw_path,
        query=exchange.query,
        minor=head.minor,
        status=499 if exchange.response is None else exchange.response.status,
        request_bytes=exchange.request_bytes if body is None else body.bytes,
        response_bytes=exchange.response_bytes,
        duration_s=monotonic() - exchange.begun_at,
        route="" if route is None else route.name,
        upstream=exchange.upstream,
        target=exchange.target,
        upstream_s=exchange.upstream_s,
        retries=exchange.retries,
        fault="" if fault is None else fault.label,
        fault_detail=exchange.why,
        request_id=exchange.request_id,
        user_agent=head.first(b"user-agent"),
        referer=head.first(b"referer"),
    )
