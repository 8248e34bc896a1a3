"""openapi_document: the documentation of an API, and its OpenAPI document."""

from hashlib import sha256
from typing import Final

from fastgw.config.sources.virtual_files import check_derived
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Outcome, Phase, Reply

_SECURITY: Final = (
    (
        b"Content-Security-Policy",
        b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (b"X-Content-Type-Options", b"nosniff"),
)


class OpenApiDocument(Filter, name="openapi_document", phase=Phase.VALIDATE):
    """Serve the documentation of an OpenAPI document. The routes of `docs` have it; write it nowhere yourself."""

    file: str
    """File with the content, which is made of the document."""
    content_type: str
    """Content type of the file."""

    def __post_init__(self) -> None:
        check_derived(self.file)

    def build(self, env: Env) -> Hooks:
        content = env.read(self.file)
        tag = b'"%b"' % sha256(content).hexdigest()[:32].encode()
        fields = (
            (b"Content-Type", self.content_type.encode()),
            (b"ETag", tag),
            (b"Cache-Control", b"no-cache"),
            *_SECURITY,
        )
        whole, unchanged = Reply(200, content, fields), Reply(304, b"", fields[1:])

        def request(exchange: Exchange) -> Outcome:
            known = b",".join(exchange.values(b"if-none-match")).replace(b"W/", b"")
            return unchanged if tag in [each.strip() for each in known.split(b",")] else whole

        return Hooks(request=request)
