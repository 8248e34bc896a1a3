"""Identity headers: request headers that a filter writes and upstreams trust; which names are allowed."""

from collections.abc import Iterable
from typing import Final

from fastgw.forwarded_headers import FAMILY
from fastgw.http.field_names import WRITTEN_HERE
from fastgw.http.fields import folded

_OF_THE_CONNECTION: Final = frozenset(folded(name) for name in WRITTEN_HERE | {b"expect", b"trailer", b"via"})
_OF_RESPONSES: Final = frozenset(
    b"content-encoding content-length content-range content-type date etag location retry-after server set-cookie "
    b"www-authenticate".split()
)
CREDENTIALS: Final = frozenset((b"authorization", b"cookie", b"proxy-authorization"))


def check_written(names: Iterable[str], credentials_allowed: bool = False) -> None:
    """Validate headers that a filter writes. Names that differ only in punctuation (`X_User` and `x-user`) are one
    header for some upstreams.

    Raises `ValueError` for a header of the connection, for one that identifies the client's address, for one with
    credentials (unless the filter provides these), and for duplicates.
    """
    never = _OF_THE_CONNECTION | FAMILY if credentials_allowed else _OF_THE_CONNECTION | FAMILY | CREDENTIALS
    taken: set[bytes] = set()
    for name in names:
        field = folded(name.encode())
        if field in never:
            raise ValueError(f"`{name}` cannot be set by a filter; expected another header")
        if field in taken:
            raise ValueError(f"two values are sent in `{name}`; expected a header for each")
        taken.add(field)


def check_label(name: str) -> None:
    """Validate a header that a filter adds to requests and responses.

    Raises `ValueError` like `check_written`, and for a header with a meaning in responses.
    """
    if folded(name.encode()) in _OF_RESPONSES:
        raise ValueError(f"`{name}` has another meaning in a response; expected another header")
    check_written((name,))
