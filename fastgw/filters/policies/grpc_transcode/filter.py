"""Settings of the filter."""

from typing import Annotated, Literal

from msgspec import Meta

from fastgw.exchange.hooks import TranslateHook
from fastgw.filters.api import Env, Filter, Hooks, Phase, ReadableFile, RequestHook, Size

ServiceName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")]


class GrpcTranscode(Filter, name="grpc_transcode", phase=Phase.TRANSFORM, order=20):  # type: ignore[literal-required]  # order: ours
    """JSON over HTTP for services of gRPC: requests that match a `google.api.http` rule become calls, and messages
    become JSON by the mapping of proto3. Needs `fastgw[grpc]`, and an upstream with `protocol: grpc`.

    The path of a request is matched as the upstream would get it, so behind `strip_prefix` and `rewrite` of the route.
    Fields that are in neither the path nor the body are query parameters. A path without a rule is answered 404,
    another method 405, JSON that does not fit the message 400, another content type than JSON 415. Requests of gRPC,
    gRPC-Web and Connect pass unchanged.

    Streamed messages are lines of JSON (`application/x-ndjson`), in both directions; each is sent as soon as it
    arrives. A call that fails is answered with the HTTP status of google.rpc.Code and a problem (RFC 9457) with its
    `code`, `message` and `details`; if a stream has begun, the last line is `{"error": ...}`. google.api.HttpBody
    passes as it is. Headers of the request and of the response are metadata; `Grpc-Timeout` is the deadline.
    """

    descriptors: ReadableFile
    """Descriptor set of the services, with all files that they import: `protoc --include_imports
    --descriptor_set_out=api.pb`. At most 16 MiB. Memory of earlier versions of the file, about ten times its size, is
    released at the next restart or upgrade."""
    services: tuple[ServiceName, ...] = ()
    """Full names of the services that are offered, such as `bookstore.v1.Bookstore`. [] = all of the descriptor set."""
    auto_mapping: bool = False
    """Whether methods without a rule are reached by `POST /package.Service/Method`, with the message as the body."""
    message_bytes: Size = 1024 * 1024
    """Maximum size of one message, as JSON and as Protobuf. A longer one of the client is answered 413, of the upstream
    502."""
    preserve_proto_field_names: bool = False
    """Whether JSON has the names of the proto file (`display_name`) in place of those in camel case (`displayName`).
    Both are accepted in requests."""
    always_print_primitive_fields: bool = False
    """Whether fields with their default value are written as well: 0, false, "", [] and {}."""
    always_print_enums_as_ints: bool = False
    """Whether enum values are written as numbers."""
    unknown_fields: Literal["reject", "ignore"] = "reject"
    """Handling of members of the body and of query parameters that are not fields of the message. `reject`: the request
    is answered 400."""
    ignored_query_parameters: tuple[str, ...] = ()
    """Query parameters that are not fields, such as `api_key`, whatever `unknown_fields` is."""

    @property
    def unknown_in_shadow(self) -> str:
        return "translated requests"

    def build(self, env: Env) -> Hooks:
        try:
            from fastgw.filters.policies.grpc_transcode.descriptors import read_api
            from fastgw.filters.policies.grpc_transcode.messages import JsonFormat
            from fastgw.filters.policies.grpc_transcode.transcoder import Transcoder
            from fastgw.filters.policies.grpc_transcode.transcoding import TranscodingUse
        except ModuleNotFoundError as error:
            raise ValueError("the package protobuf is missing; pip install 'fastgw[grpc]'") from error
        content = env.read(self.descriptors)
        key = "grpc_transcode", env.reads[self.descriptors], self.services, self.auto_mapping
        try:
            api = env.shared(key, lambda: read_api(content, self.services, self.auto_mapping))
        except ValueError as error:
            raise ValueError(f"{self.descriptors}: {error}") from error
        format = JsonFormat(
            self.preserve_proto_field_names,
            self.always_print_primitive_fields,
            self.always_print_enums_as_ints,
            self.unknown_fields == "ignore",
            frozenset(self.ignored_query_parameters),
        )
        transcoder = Transcoder(TranscodingUse(api, format, self.message_bytes))
        return Hooks(
            request=RequestHook(transcoder.request, would=transcoder.would),
            translate=TranslateHook(transcoder.translate, of_copies=transcoder.translate),
            reply=transcoder.reply,
            finish=transcoder.finish,
            explain=transcoder.explain,
        )
