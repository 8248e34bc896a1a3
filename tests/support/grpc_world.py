"""A server of gRPC with grpcio, a gateway before it, and a channel to that."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tests.support.gateway import Gateway
from tests.support.listener_lanes import ListenerLane

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


class Server:
    """A server of gRPC with the greeter, health and reflection. Tests may share it: `greeter.forget` is for that."""

    def __init__(self) -> None:
        self.greeter = Greeter()
        self.health = health.HealthServicer()
        self._server = grpc.server(futures.ThreadPoolExecutor(20), options=OPTIONS)
        self._server.add_generic_rpc_handlers((self.greeter,))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        reflection.enable_server_reflection(["test.Greeter", reflection.SERVICE_NAME], self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self, grace: float) -> Any:
        return self._server.stop(grace)


class World:
    """A server of gRPC, a gateway before it, and a channel to that."""

    gateway: Any
    """`Gateway`, or a lane of one."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack, **more: Any) -> None:
        self.server = Server()
        stack.callback(lambda: self.server.stop(0).wait())
        upstreams, routes = grpc_part("u", self.server.url, more.pop("upstream", {}), more.pop("route", {}))
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
            "upstreams": upstreams,
            "routes": routes,
            **LIMITS,
            **more,
        }
        self._turn_to(stack.enter_context(Gateway(config, directory)), stack)

    @classmethod
    def in_lane(cls, lane: ListenerLane, server: Server, stack: contextlib.ExitStack) -> World:
        """Return one with a lane of a gateway that tests share, as they share the server."""
        world = cls.__new__(cls)
        world.server = server
        server.greeter.forget()
        world._turn_to(lane, stack)
        return world

    def _turn_to(self, gateway: Gateway | ListenerLane, stack: contextlib.ExitStack) -> None:
        self.gateway, self.greeter, self.health = gateway, self.server.greeter, self.server.health
        self.channel = stack.enter_context(grpc.insecure_channel(gateway.address(), options=OPTIONS))

    def unary(self, method: str = "Unary", service: str = "test.Greeter") -> Any:
        return self.channel.unary_unary(f"/{service}/{method}")


LIMITS = {"limits": {"body_bytes": "64MiB"}}


def grpc_part(
    name: str, url: str, upstream: Mapping[str, Any], route: Mapping[str, Any], prefix: str = ""
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the upstream of this name, and routes to it: for the greeter, for health and for reflection."""
    settings = {"targets": [{"url": url}], "protocol": "grpc", **upstream}
    services = {
        "greeter": {"service": "test.Greeter"},
        "health": {"service": "grpc.health.v1.Health", "methods": ["Check"]},
        "reflection": {"service": "grpc.reflection.v1alpha.ServerReflection"},
    }
    routes = [{"name": prefix + each, "grpc": matched, "upstream": name} for each, matched in services.items()]
    routes[0] |= route
    return {name: settings}, routes
