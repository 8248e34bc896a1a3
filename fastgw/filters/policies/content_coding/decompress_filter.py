"""decompress: settings of the filter."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from fastgw.config.base.value_types import Size
from fastgw.filters.api import Env, Filter, Hooks, Phase, StageFactory


class Decompress(Filter, name="decompress", phase=Phase.VALIDATE, order=-10):  # type: ignore[literal-required]  # order: ours
    """Decompress request bodies with a `Content-Encoding` of zstd, br or gzip, within limits. Filters that run later
    and the upstream get the plain body, without `Content-Encoding` and digests. Needs `fastgw[compression]`.

    Another content coding, or more than one, is answered 415 with the accepted ones in `Accept-Encoding`; data that is
    invalid or incomplete is answered 400. Windows of Zstandard are limited to 8 MiB, as RFC 9659 requires, and bodies
    to 256 members of gzip or frames of Zstandard. Plain bodies pass unchanged: limit their size with `size`.
    """

    stands_anywhere: ClassVar[bool] = True

    encodings: Annotated[tuple[Literal["zstd", "br", "gzip"], ...], Meta(min_length=1)] = ("zstd", "br", "gzip")
    """Content codings that are accepted."""
    max_bytes: Size = 1024 * 1024
    """Maximum size of a body after decompression. A larger one is answered 413 as soon as the limit is exceeded."""
    max_ratio: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    """Maximum ratio of the decompressed to the compressed size, from 1 MiB of decompressed data on. A body that exceeds
    it is answered 413."""

    def __post_init__(self) -> None:
        if len(set(self.encodings)) < len(self.encodings):
            raise ValueError("duplicate encoding; expected each of zstd, br and gzip at most once")

    def build(self, env: Env) -> Hooks:
        try:
            from fastgw.filters.policies.content_coding.decompression import Decompression, codings_of
        except ModuleNotFoundError as error:
            raise ValueError(f"the package {error.name} is missing; pip install 'fastgw[compression]'") from error
        decompression = Decompression(self.encodings, self.max_bytes, self.max_ratio)
        return Hooks(
            request=decompression.request,
            request_body=StageFactory(decompression.stage_for, codings=codings_of),
            explain=decompression.explain,
        )
