"""compress: settings of the filter."""

from collections.abc import Iterable
from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta

from fastgw.config.base.value_types import MediaType, Size
from fastgw.filters.api import Env, Filter, Hooks, Phase, StageFactory, WarningContext
from fastgw.filters.policies.content_coding.media_types import MediaTypes

Encoding = Literal["zstd", "br", "gzip"]

TYPES: Final = (
    "text/*",
    "application/json",
    "application/*+json",
    "application/javascript",
    "application/x-javascript",
    "application/xml",
    "application/*+xml",
    "application/yaml",
    "application/wasm",
    "application/ndjson",
    "application/x-ndjson",
    "application/jsonl",
    "application/vnd.ms-fontobject",
    "font/otf",
    "font/ttf",
    "image/bmp",
    "image/svg+xml",
    "image/vnd.microsoft.icon",
    "image/x-icon",
)
"""Media types that are compressed by default."""


class Compress(Filter, name="compress", phase=Phase.VALIDATE, order=-20):  # type: ignore[literal-required]  # order: ours
    """Compress responses with Zstandard, Brotli or gzip, as the client accepts by `Accept-Encoding`. Needs
    `fastgw[compression]`.

    Of equal weights (`q`) the first in `encodings` is used. Responses that already have a `Content-Encoding`, partial
    responses (206), and those with `Cache-Control: no-transform` do not change; neither do faults of the gateway. A
    compressed response has a weak ETag, and no `Content-Length`, `Accept-Ranges` and digest. All responses of `types`
    that have neither a `Content-Encoding` nor `no-transform` get `Vary: Accept-Encoding`, compressed or not. A request
    for a range gets the range of the uncompressed content.

    Event streams (`text/event-stream`, NDJSON, gRPC-Web) and other responses of unknown length are flushed whenever the
    upstream pauses, so that the client receives each event at once. Event streams are compressed with Zstandard or
    gzip, because Brotli would need several times the memory for each open stream.
    """

    stands_anywhere: ClassVar[bool] = True

    encodings: Annotated[tuple[Encoding, ...], Meta(min_length=1)] = ("zstd", "br", "gzip")
    """Content codings in the order of preference."""
    types: tuple[MediaType, ...] = TYPES
    """Media types that are compressed: `text/html`, `text/*`, `application/*+json`. Messages of gRPC never are."""
    min_bytes: Size = 256
    """Minimum size of a response that is compressed, unless its length is unknown or the client refuses `identity`. Of
    a body that another filter takes as a whole (`transform`), the size counts that it has afterwards."""
    level: Literal["fast", "default", "best"] = "default"
    """`fast`: least CPU and memory. `best`: smallest responses, for about ten times the CPU of `default`."""
    random_padding: bool = False
    """Whether each compressed response is longer by a random number of bytes, up to 256. It makes attacks expensive
    that guess secrets in a response by its compressed length (BREACH): for pages that contain both a secret, such as a
    CSRF token, and input of the request."""

    def __post_init__(self) -> None:
        if len(set(self.encodings)) < len(self.encodings):
            raise ValueError("duplicate encoding; expected each of zstd, br and gzip at most once")

    @property
    def unknown_in_shadow(self) -> str:
        return "bodies of responses"

    def warnings(self, context: WarningContext) -> Iterable[str]:
        if not self.types:
            yield "`types` is empty: nothing is compressed"

    def build(self, env: Env) -> Hooks:
        try:
            from fastgw.filters.policies.content_coding.compression import Compression
        except ModuleNotFoundError as error:
            raise ValueError(f"the package {error.name} is missing; pip install 'fastgw[compression]'") from error
        compression = Compression(
            MediaTypes(self.types), self.encodings, self.level, self.min_bytes, self.random_padding
        )
        return Hooks(
            request=compression.request,
            response_body=StageFactory(
                compression.stage_for,
                ranges=True,
                change_whole=None if self.random_padding else compression.change_whole,
            ),
            explain=compression.explain,
        )
