"""A bookstore with grpcio, whose API has HTTP rules of each kind, a gateway that transcodes, and clients of it."""

from __future__ import annotations

import contextlib
import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.support.gateway import Gateway

PROTOS = Path(__file__).parent / "protos"
DEADLINE = 60.0
SERVICE = "bookstore.v1.Bookstore"


def compiled(directory: Path, *sources: str, imports: bool = True) -> bytes:
    """Return the descriptor set of these files of a folder, by protoc."""
    common = next(iter(find_spec("google.api").submodule_search_locations))  # type: ignore[union-attr, arg-type]
    out = [f"--descriptor_set_out={directory / 'out.pb'}", *(["--include_imports"] if imports else [])]
    paths = [f"-I{directory}", f"-I{PROTOS}", f"-I{Path(common).parent.parent}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *paths, *out, *sources]
    subprocess.run(command, check=True, capture_output=True, text=True)
    made = directory / "out.pb"
    content = made.read_bytes()
    made.unlink()
    return content


@cache
def api() -> bytes:
    """The descriptor set of the bookstore."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        return compiled(Path(directory), "bookstore.proto")


@cache
def pool() -> Any:
    made = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(api()).file:
        made.AddSerializedFile(file.SerializeToString())
    return made


def message(name: str) -> Any:
    """Return the class of a message, by its name in the bookstore or in full."""
    full = name if "." in name else f"bookstore.v1.{name}"
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(full))


class Bookstore(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The service."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any, dict[str, Any], float | None]] = []
        self.go_on = threading.Semaphore(0)
        self.cancelled = threading.Event()
        self.began = threading.Event()
        self.yielded = 0  # messages of an endless stream

    def service(self, details: Any) -> Any:
        service, _, name = details.method.rpartition("/")
        found = pool().FindServiceByName(SERVICE).methods_by_name.get(name) if service == f"/{SERVICE}" else None
        step = getattr(self, f"_{name}", None)
        if found is None or step is None:
            return None
        make = getattr(
            grpc,
            f"{'stream' if found.client_streaming else 'unary'}_{'stream' if found.server_streaming else 'unary'}"
            "_rpc_method_handler",
        )
        return make(
            step,
            request_deserializer=message_factory.GetMessageClass(found.input_type).FromString,
            response_serializer=lambda made: made if isinstance(made, bytes) else made.SerializeToString(),
        )

    def _note(self, name: str, request: Any, context: Any) -> None:
        self.seen.append((name, request, dict(context.invocation_metadata()), context.time_remaining()))

    def _fail(self, text: str, context: Any) -> None:
        """`fail:CODE`: end with this status; `details:CODE`: with details as well."""
        kind, _, code = text.partition(":")
        if kind == "details":
            status = message_factory.GetMessageClass(_status_pool().FindMessageTypeByName("google.rpc.Status"))()
            status.code, status.message = grpc.StatusCode[code].value[0], "with details"
            info = message("google.rpc.ErrorInfo")(reason="WHY", domain="bookstore.example")
            status.details.add().Pack(info)
            status.details.add(type_url="type.googleapis.com/no.such.Type", value=b"\1\2")
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(grpc.StatusCode[code], "with details")
        if kind == "fail":
            context.abort(grpc.StatusCode[code], "why: 100 % ä")

    def _ListShelves(self, request: Any, context: Any) -> Any:
        self._note("ListShelves", request, context)
        made = message("ListShelvesResponse")()
        for number in range(request.page_size):
            made.shelves.add(name=f"shelves/{number}", display_name="d", size=number)
        return made

    def _GetShelf(self, request: Any, context: Any) -> Any:
        self._note("GetShelf", request, context)
        context.send_initial_metadata((("x-initial", "i"),))
        context.set_trailing_metadata((("x-trailing", "t"),))
        return message("Shelf")(name=request.name, display_name="Mystery", size=2**53)

    def _CreateShelf(self, request: Any, context: Any) -> Any:
        self._note("CreateShelf", request, context)
        return request.shelf

    def _UpdateShelf(self, request: Any, context: Any) -> Any:
        self._note("UpdateShelf", request, context)
        return request.shelf

    def _DeleteShelf(self, request: Any, context: Any) -> Any:
        self._note("DeleteShelf", request, context)
        return message("google.protobuf.Empty")()

    def _MoveShelf(self, request: Any, context: Any) -> Any:
        self._note("MoveShelf", request, context)
        return request

    def _Echo(self, request: Any, context: Any) -> Any:
        self._note("Echo", request, context)
        self._fail(request.text, context)
        if request.text == "wait":
            context.add_callback(self.cancelled.set)
            self.began.set()
            self.cancelled.wait(DEADLINE)
        if request.text == "garbage":
            return b"\xff\xff\xff"
        if request.text == "large":
            return message("Everything")(text="x" * request.number)
        return request

    _Hidden = _Echo

    def _Watch(self, request: Any, context: Any) -> Iterator[Any]:
        self._note("Watch", request, context)
        context.add_callback(self.cancelled.set)
        self._fail(request.text, context)
        if request.text == "endless":
            while not self.cancelled.is_set():
                self.yielded += 1
                yield message("Everything")(text="x" * 1000)
        for number in range(request.number):
            if request.text == "step":
                assert self.go_on.acquire(timeout=DEADLINE)
            yield message("Everything")(number=number, text="m")
        if request.text == "late":
            self._fail(f"details:{'ABORTED'}", context)
        if request.text == "garbage":
            yield b"\xff\xff\xff"

    def _Sum(self, requests: Iterator[Any], context: Any) -> Any:
        total = 0
        for request in requests:
            self._note("Sum", request, context)
            total += request.number
            self._fail(request.text, context)
        return message("Everything")(number=total)

    def _Chat(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        context.add_callback(self.cancelled.set)
        yield from requests

    def _Upload(self, request: Any, context: Any) -> Any:
        self._note("Upload", request, context)
        return message("Everything")(text=request.file.content_type, data=request.file.data)

    def _UploadStream(self, requests: Iterator[Any], context: Any) -> Any:
        count = 0
        for request in requests:
            self._note("UploadStream", request, context)
            count += 1
        return message("Everything")(number=count)

    def _Download(self, request: Any, context: Any) -> Any:
        if request.name.startswith("coded:"):
            context.send_initial_metadata((("content-encoding", "gzip"), ("content-digest", "sha-256=:AA==:")))
            if request.name == "coded:failed":
                context.abort(grpc.StatusCode.NOT_FOUND, "failed")
            return message("google.api.HttpBody")(content_type="text/plain", data=gzip.compress(b"x" * 2000))
        return message("google.api.HttpBody")(content_type="image/png", data=b"\x89PNG\0" + request.name.encode())

    def _DownloadStream(self, request: Any, context: Any) -> Iterator[Any]:
        for piece in (b"one\n", b"two", b""):
            yield message("google.api.HttpBody")(content_type="text/csv", data=piece)


@cache
def _status_pool() -> Any:
    from google.rpc import status_pb2  # its file is not among those that the bookstore imports

    return status_pb2.DESCRIPTOR.pool


class World:
    """The bookstore, and a gateway in front of it."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack, **more: Any) -> None:
        self.store = Bookstore()
        self.server = grpc.server(futures.ThreadPoolExecutor(10), compression=more.pop("compression", None))
        self.server.add_generic_rpc_handlers((self.store,))
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        stack.callback(lambda: self.server.stop(0).wait())
        self.descriptors = directory / "api.pb"
        self.descriptors.write_bytes(api())
        upstream = {"targets": [{"url": f"http://127.0.0.1:{port}"}], "protocol": "grpc", **more.pop("upstream", {})}
        transcode = {"descriptors": str(self.descriptors), **more.pop("transcode", {})}
        filters = {"grpc_transcode": transcode, **more.pop("filters", {})}
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0", "protocols": ["http1", "http2"]}},
            "upstreams": {"u": upstream, **more.pop("upstreams", {})},
            "routes": [{"name": "bookstore", "upstream": "u", "filters": filters, **more.pop("route", {})}],
            **more,
        }
        self.gateway = stack.enter_context(Gateway(config, directory))
        self.url = f"http://{self.gateway.address()}"
        self.channel = stack.enter_context(grpc.insecure_channel(self.gateway.address()))
