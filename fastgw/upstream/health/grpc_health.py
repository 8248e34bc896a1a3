"""gRPC health checking protocol (grpc.health.v1). Encoded by hand, because its messages have a single field.

`HealthCheckRequest {string service = 1}`, `HealthCheckResponse {ServingStatus status = 1}`.
"""

from enum import IntEnum

from fastgw.http.grpc.frames import PREFIX, frame


class ServingStatus(IntEnum):
    """Status that a service reports about itself."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


def health_call(host: bytes, lines: bytes, service: str) -> bytes:
    """Return the call for a service, as HTTP/1.1 text. `lines`: further headers."""
    name = service.encode()
    length, rest = b"", len(name)
    while rest > 127:
        length, rest = length + bytes((rest % 128 + 128,)), rest // 128
    message = b"\x0a" + length + bytes((rest,)) + name if name else b""
    head = (
        b"POST /grpc.health.v1.Health/Check HTTP/1.1\r\nHost: %b\r\nContent-Type: application/grpc\r\nTE: trailers\r\n"
    )
    return head % host + lines + b"\r\n" + frame(message)


def health_verdict(status: int, body: bytes) -> str:
    """Return the error in the response; "" = healthy. Without a message, the gRPC status is the error."""
    if status != 200:
        return f"status {status}"
    if len(body) < PREFIX:
        return "no answer of grpc.health.v1"
    message = body[PREFIX : PREFIX + int.from_bytes(body[1:PREFIX], "big")]
    value = message[1] if len(message) == 2 and message[0] == 8 else 0
    if value == ServingStatus.SERVING:
        return ""
    return ServingStatus(value).name if value in ServingStatus.__members__.values() else "unexpected answer"
