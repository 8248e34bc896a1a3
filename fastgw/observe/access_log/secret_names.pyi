"""Names of secrets, and the masking of their values in queries and URLs."""

from collections.abc import Callable, Iterable
from typing import final

@final
class SecretNames:
    """Names of secrets, those of `credential_names` and those in `redact`; masks parameters with these names.

    Names are compared percent-decoded and without case, from their last `/`; words may be joined by `_`, `-` or nothing
    (`accessToken`). Names in brackets and before them are compared separately (`user[password]`, `token[]`). A
    parameter may also begin after `;`, `?` and `#`, because a query may contain a URL, encoded or not, and some
    upstreams split at `;`. A masked value ends only at `&`, because to other upstreams the text after `;` belongs to
    the secret. Usernames and passwords in URLs are masked.
    """

    names: frozenset[str]

    def __init__(self, redact: Iterable[str] = ()) -> None: ...
    def has_header(self, name: bytes) -> bool:
        """Whether a header, which has this name in lower case, has a secret as its value."""

    def has_member(self, name: bytes) -> bool:
        """Whether a member of a body or form, which has this name in lower case, has a secret as its value."""

    def mask(self, query: bytes | None) -> bytes | None:
        """Return the query, or URL with a query, with `***` in place of secret values.

        At most one line's length is read and kept: more would not be shown, and a peer that sends thousands of names
        would occupy the worker.
        """

def masker(redact: Iterable[str]) -> Callable[[bytes | None], bytes | None]:
    """Return the `mask` method for these names."""

def may_hide(text: bytes) -> bool:
    """Whether the text may contain a URL with credentials, or encoded parameters."""
