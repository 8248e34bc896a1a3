"""response_urls: rewrite URLs in responses that point to the upstream, so that they point to the gateway."""

import re
from collections.abc import Callable
from typing import Annotated, Final, Literal, NamedTuple

from msgspec import Meta

from fastgw.config.base.value_types import TargetUrl, Url
from fastgw.config.settings.gateway import Some
from fastgw.filters.api import Env, Exchange, Filter, Hooks, Looks, Phase
from fastgw.forwarded_headers import client_authority, client_scheme
from fastgw.http.malformed import Malformed
from fastgw.http.path_normalization import normalize

LONGEST: Final = 8 * 1024
"""Maximum bytes of a URL that is rewritten; a longer one does not change."""

# RFC 3986 appendix B; text with other characters does not change.
_IS_REFERENCE: Final = re.compile(
    rb"(?:([A-Za-z][A-Za-z0-9+.-]*+):)?(?://([^/?#]*+))?([^?#]*+)(\?[^#]*+)?(#.*+)?"
).fullmatch
_IS_AUTHORITY: Final = re.compile(rb"([^@:\[\]]++|\[[^@\[\]]++\])(?::([0-9]{0,5}))?").fullmatch
_BEYOND_ASCII: Final = re.compile(rb"[\x80-\xff]")
_PORTS: Final = {b"http": 80, b"https": 443}
_NO_HOSTS: Final[frozenset[bytes]] = frozenset()
_UNMOVED: Final = b"__host-"
"""Prefix of names of cookies that are bound to the host (RFC 6265bis)."""

_MOVING: Final = (201, *range(300, 400))
_LOOKS: Final = Looks(_MOVING, (b"content-location",))
_LOOKS_WITH_COOKIES: Final = Looks(_MOVING, (b"content-location", b"set-cookie"))


class ResponseUrls(Filter, name="response_urls", phase=Phase.TRANSFORM, order=10):  # type: ignore[literal-required]  # order: ours
    """Rewrite URLs in response headers that point to the upstream, so that they point to the gateway.

    These are `Location` of redirects and of 201, and `Content-Location`. A URL with the scheme, host and port of
    `urls`, or with none of them, and with a path below theirs, becomes the URL that the client would use, with the
    scheme and host of its request (as reported by a trusted proxy). Text beyond ASCII in it stays as it is, if it is
    UTF-8. Other URLs do not change, because they do not point to the upstream.
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
            return Hooks(response=place.response, looks_at=_LOOKS)
        return Hooks(response=place.response_with_cookies, looks_at=_LOOKS_WITH_COOKIES)


class _Place(NamedTuple):
    """Mapping from the upstream's URLs to the gateway's."""

    scheme: bytes
    """Scheme of the first of its URLs."""
    origins: tuple[tuple[bytes, bytes, int], ...]
    """Scheme, host and port."""
    bases: tuple[bytes, ...]
    """The paths of its URLs, without a slash at the end."""
    path: bytes
    """Path of the gateway that replaces them."""
    hosts: frozenset[bytes]
    """Hosts that match with any scheme and port."""
    root: bytes
    """Path relative to the URL for a request of `path` alone."""

    def response(self, exchange: Exchange) -> None:
        answer = exchange.response
        assert answer is not None
        head = answer.head
        if head is None:  # a response of the gateway itself
            return
        status = answer.status
        if 300 <= status < 400 or status == 201:
            _rewrite(exchange, b"location", self)
        if head.first(b"content-location") is not None:
            _rewrite(exchange, b"content-location", self)

    def response_with_cookies(self, exchange: Exchange) -> None:
        self.response(exchange)
        answer = exchange.response
        if answer is not None and answer.head is not None and answer.head.first(b"set-cookie") is not None:
            _rewrite_cookies(exchange, self.cookie)

    def gateway_url(self, reference: bytes, exchange: Exchange) -> bytes | None:
        """Return the gateway's URL for a reference in a response; None: it does not change."""
        parts = _IS_REFERENCE(reference) if len(reference) <= LONGEST else None
        if parts is None:
            return None
        scheme, authority, path, query, fragment = parts.groups(b"")
        if authority:
            origin = _origin_of(scheme.lower() or self.scheme, authority)
            if origin is None or (origin not in self.origins and origin[1] not in self.hosts):
                return None
            path = path or b"/"
        elif scheme or reference.startswith(b"//"):
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
        moved = self.moved(path)
        if moved is None:
            return None
        client = client_authority(exchange.head, exchange.peer)
        here = b"%b://%b" % (client_scheme(exchange.head, exchange.peer), client) if client else b""
        return here + moved + query + fragment

    def sent(self, exchange: Exchange) -> bytes | None:
        """Return the path that was requested from the upstream; None: unknown."""
        path = exchange.path
        if path == self.path:
            return (self.bases[0] + self.root) or b"/"
        return self.bases[0] + path[len(self.path) :] if path.startswith(self.path + b"/") else None

    def moved(self, path: bytes) -> bytes | None:
        """Return the gateway's path for a path of the upstream; None: there is none."""
        try:
            normal = normalize(_in_ascii(path), strict=False)
        except Malformed:
            return None
        for base in self.bases:
            if normal == base:
                return self.path or b"/"
            if normal.startswith(base + b"/"):
                # As written, unless dots hide its target.
                return self.path + (path if path.startswith(base + b"/") and b"/." not in path else normal)[len(base) :]
        return None

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


def _in_ascii(path: bytes) -> bytes:
    """Return a path with its text escaped as recipients do (RFC 3987 section 3.1), because many services send it raw.
    Raises `Malformed` for bytes that are not UTF-8, whose text recipients guess.
    """
    if path.isascii():
        return path
    try:
        path.decode()
    except UnicodeDecodeError:
        raise Malformed("The path is not UTF-8.") from None
    return _BEYOND_ASCII.sub(lambda found: b"%%%02X" % found[0][0], path)


def _rewrite(exchange: Exchange, name: bytes, place: _Place) -> None:
    assert exchange.response is not None
    fields = exchange.response.headers
    values = fields.get_all(name)
    if len(values) == 1:  # duplicates are ambiguous
        moved = place.gateway_url(values[0], exchange)
        if moved is not None and moved != values[0]:
            fields.set(name.title(), moved)


def _rewrite_cookies(exchange: Exchange, rewritten: Callable[[bytes], bytes]) -> None:
    assert exchange.response is not None
    fields = exchange.response.headers
    before = fields.get_all(b"set-cookie")
    after = [rewritten(line) for line in before]
    if after != before:
        fields.remove(b"set-cookie")
        for line in after:
            fields.add(b"Set-Cookie", line)


def _origin(url: Url) -> tuple[bytes, bytes, int]:
    if url.socket:
        return b"http", b"localhost", _PORTS[b"http"]
    host = f"[{url.host}]" if ":" in url.host else url.host
    return url.scheme.encode(), host.encode(), url.port


def _origin_of(scheme: bytes, authority: bytes) -> tuple[bytes, bytes, int] | None:
    parts = _IS_AUTHORITY(authority)
    if parts is None or scheme not in _PORTS:
        return None
    return scheme, parts[1].lower(), int(parts[2] or _PORTS[scheme])
