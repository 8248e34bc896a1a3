"""response_urls: rewrite URLs in responses that point to the upstream, so that they point to the gateway."""

from collections.abc import Callable
from typing import Annotated, Final, Literal, NamedTuple

from msgspec import Meta

from fastgw.config.base.value_types import TargetUrl, Url
from fastgw.config.settings.gateway import Some
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Phase
from fastgw.upstream.forwarding.gateway_urls import (
    HEADERS,
    PORTS,
    Origin,
    at_client,
    moved_path,
    own_host,
    parse_reference,
    rewrite_urls,
)

_NO_HOSTS: Final[frozenset[bytes]] = frozenset()
_UNMOVED: Final = b"__host-"
"""Prefix of names of cookies that are bound to the host (RFC 6265bis)."""

_OF_ANY_STATUS: Final = HEADERS[1:]


class ResponseUrls(Filter, name="response_urls", phase=Phase.TRANSFORM, order=10):  # type: ignore[literal-required]  # order: ours
    """Rewrite URLs in response headers that point to the upstream, so that they point to the gateway.

    These are `Location` of redirects and of 201, `Content-Location` and `Refresh`. The filter takes the place of
    `proxy_redirect` of the route. A URL with the scheme, host and port of `urls`, or with none of them, and with a path
    below theirs, becomes the URL that the client would use, with the scheme and host of its request (as reported by a
    trusted proxy). Text beyond ASCII in it stays as it is, if it is UTF-8. Other URLs do not change, because they do
    not point to the upstream.
    """

    urls: Some[TargetUrl]
    """URLs of the upstream, as in its targets. URLs without host or scheme are relative to the first."""
    path: Annotated[str, Meta(pattern=r"^/")] = "/"
    """Path at the gateway that corresponds to the path of `urls`, such as the route's `strip_prefix`."""
    root: Literal["slash", "bare"] = "slash"
    """The route's `path.root`: relative URLs in a response to `path` itself depend on it."""
    any_port: bool = False
    """Whether URLs with the host name of `urls` are rewritten whatever their port and scheme, http or https."""
    cookies: Literal["keep", "rewrite"] = "keep"
    """Handling of `Set-Cookie`. `rewrite`: the domain is removed, so that the cookie belongs to this host; in its path
    the path of `urls` is replaced by `path`, also if the cookie's path is a parent of it. Cookies named `__Host-…` do
    not change."""

    def build(self, env: Env) -> Hooks:
        place = _Place(
            _origin(self.urls[0])[0],
            tuple(dict.fromkeys(map(_origin, self.urls))),
            tuple(dict.fromkeys(url.base_path.encode() for url in self.urls)),
            self.path.rstrip("/").encode(),
            frozenset(_origin(url)[1] for url in self.urls) if self.any_port else _NO_HOSTS,
            b"/" if self.root == "slash" else b"",
        )
        if self.cookies == "keep":
            return Hooks(response=place.response)
        return Hooks(response=place.response_with_cookies)


class _Place(NamedTuple):
    """Mapping from the upstream's URLs to the gateway's."""

    scheme: bytes
    """Scheme of the first of its URLs."""
    origins: tuple[Origin, ...]
    bases: tuple[bytes, ...]
    """The paths of its URLs, without a slash at the end."""
    path: bytes
    """Path of the gateway that replaces them."""
    hosts: frozenset[bytes]
    """Hosts that match with any scheme and port."""
    root: bytes
    """Path relative to the URL for a request of `path` alone."""

    def response(self, exchange: Exchange) -> None:
        response = exchange.response
        assert response is not None
        is_moving = response.status == 201 or 300 <= response.status < 400
        names = HEADERS if is_moving else _OF_ANY_STATUS  # a `Location` means something else in other responses
        rewrite_urls(response, names, lambda reference: self.gateway_url(reference, exchange))

    def response_with_cookies(self, exchange: Exchange) -> None:
        self.response(exchange)
        answer = exchange.response
        if answer is not None and answer.head is not None and answer.head.first(b"set-cookie") is not None:
            _rewrite_cookies(exchange, self.cookie)

    def gateway_url(self, text: bytes, exchange: Exchange) -> bytes | None:
        """Return the gateway's URL for a reference in a response; None: it does not change."""
        reference = parse_reference(text)
        if reference is None:
            return None
        path, query = reference.path, reference.query
        if reference.authority:
            origin = reference.origin(self.scheme)
            if origin is None or (origin not in self.origins and origin[1] not in self.hosts):
                return None
            path = path or b"/"
        elif reference.scheme or text.startswith(b"//"):
            return None
        else:
            asked = self.sent(exchange)
            if asked is None:
                return None
            if not path:
                path = asked
                if not query and exchange.query is not None:
                    query = b"?" + exchange.query
            elif not path.startswith(b"/"):
                path = asked[: asked.rfind(b"/") + 1] + path
        moved = next((found for base in self.bases if (found := moved_path(path, base, self.path)) is not None), None)
        return None if moved is None else at_client(exchange, moved + query + reference.fragment)

    def sent(self, exchange: Exchange) -> bytes | None:
        """Return the path that was requested from the upstream; None: unknown."""
        path = exchange.path
        if path == self.path:
            return (self.bases[0] + self.root) or b"/"
        return self.bases[0] + path[len(self.path) :] if path.startswith(self.path + b"/") else None

    def cookie(self, line: bytes) -> bytes:
        """Rewrite a `Set-Cookie` of the upstream for the gateway."""
        pair, *attributes = line.split(b";")
        if pair.lstrip(b" \t").lower().startswith(_UNMOVED):
            return line
        kept = [pair]
        for attribute in attributes:
            name, _, value = attribute.partition(b"=")
            match name.strip(b" \t").lower():
                case b"domain":
                    continue
                case b"path":
                    attribute = b" Path=" + self._cookie_path(value.strip(b" \t"))
            kept.append(attribute)
        return b";".join(kept)

    def _cookie_path(self, path: bytes) -> bytes:
        for base in self.bases:
            if path.rstrip(b"/") == base or path.startswith(base + b"/"):
                return self.path + path[len(base) :] or b"/"
            if base.startswith(path.rstrip(b"/") + b"/"):
                return self.path or b"/"
        return path


def _rewrite_cookies(exchange: Exchange, rewritten: Callable[[bytes], bytes]) -> None:
    assert exchange.response is not None
    fields = exchange.response.headers
    before = fields.get_all(b"set-cookie")
    after = [rewritten(line) for line in before]
    if after != before:
        fields.remove(b"set-cookie")
        for line in after:
            fields.add(b"Set-Cookie", line)


def _origin(url: Url) -> Origin:
    scheme = b"https" if url.tls else b"http"
    return scheme, own_host(url.scheme, url.host), url.port or PORTS[scheme]
