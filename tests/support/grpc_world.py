"""A server of gRPC with grpcio, a gateway before it, and a channel to that."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tests.support.gateway import Gateway

DEADLINE = 60.0
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
CODES = grpc.StatusCode


class Greeter(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A service whose messages are bytes as they are."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.seen: list[dict[str, Any]] = []
        self.failures = 0

    def forget(self) -> None:
        """Forget the calls so far, for the next test."""
        self.cancelled, self.seen, self.failures = threading.Event(), [], 0

    def service(self, details: Any) -> Any:
        kind = {
            "Unary": grpc.unary_unary_rpc_method_handler,
            "Fail": grpc.unary_unary_rpc_method_handler,
            "FailOnce": grpc.unary_unary_rpc_method_handler,
            "Wait": grpc.unary_unary_rpc_method_handler,
            "ServerStream": grpc.unary_stream_rpc_method_handler,
            "Endless": grpc.unary_stream_rpc_method_handler,
            "ClientStream": grpc.stream_unary_rpc_method_handler,
            "Bidi": grpc.stream_stream_rpc_method_handler,
        }
        service, _, method = details.method.rpartition("/")
        if service != "/test.Greeter" or method not in kind:
            return None
        return kind[method](getattr(self, f"_{method}"))

    def _note(self, context: Any) -> dict[str, Any]:
        noted = dict(context.invocation_metadata())
        noted["left"] = context.time_remaining()
        self.seen.append(noted)
        return noted

    def _Unary(self, request: bytes, context: Any) -> bytes:
        noted = self._note(context)
        context.send_initial_metadata((("x-initial", "i"),))
        context.set_trailing_metadata((("x-trailing-bin", noted.get("x-some-bin", b"\0\xff")),))
        return request

    def _Fail(self, request: bytes, context: Any) -> bytes:
        context.abort(CODES[request.decode() or "ABORTED"], "why: 100 % ä")
        raise AssertionError

    def _FailOnce(self, request: bytes, context: Any) -> bytes:
        self.failures += 1
        if self.failures == 1:
            context.abort(CODES.UNAVAILABLE, "once")
        return b"again"

    def _Wait(self, request: bytes, context: Any) -> bytes:
        self._note(context)
        context.add_callback(self.cancelled.set)
        self.cancelled.wait(DEADLINE)
        return b""

    def _ServerStream(self, request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    def _Endless(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        while not self.cancelled.is_set():
            yield b"x" * 10_000

    def _ClientStream(self, requests: Iterator[bytes], context: Any) -> bytes:
        return b"%d" % sum(len(each) for each in requests)

    def _Bidi(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        for each in requests:
            yield b"<" + each + b">"


class World:
    """A server of gRPC, a gateway before it, and a channel to that."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack, **more: Any) -> None:
        self.greeter = Greeter()
        self.server = grpc.server(futures.ThreadPoolExecutor(20), options=OPTIONS)
        self.server.add_generic_rpc_handlers((self.greeter,))
        self.health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        reflection.enable_server_reflection(["test.Greeter", reflection.SERVICE_NAME], self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        stack.callback(lambda: self.server.stop(0).wait())
        upstream = {"targets": [{"url": f"http://127.0.0.1:{port}"}], "protocol": "grpc", **more.pop("upstream", {})}
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
            "upstreams": {"u": upstream},
            "routes": [
                {"name": "greeter", "grpc": {"service": "test.Greeter"}, "upstream": "u", **more.pop("route", {})},
                {"name": "health", "grpc": {"service": "grpc.health.v1.Health", "methods": ["Check"]}, "upstream": "u"},
                {
                    "name": "reflection",
                    "grpc": {"service": "grpc.reflection.v1alpha.ServerReflection"},
                    "upstream": "u",
                },
            ],
            "limits": {"body_bytes": "64MiB"},
            **more,
        }
        self.gateway = stack.enter_context(Gateway(config, directory))
        self.channel = stack.enter_context(grpc.insecure_channel(self.gateway.address(), options=OPTIONS))

    def unary(self, method: str = "Unary", service: str = "test.Greeter") -> Any:
        return self.channel.unary_unary(f"/{service}/{method}")
