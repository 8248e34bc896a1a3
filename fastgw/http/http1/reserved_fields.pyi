"""Reserved fields: only trusted peers may send them. They are found in a head and removed before anything reads them.

Such a field states the identity of a client or its original request, and upstreams trust it because they assume that a
proxy has written it: `True-Client-IP`, `X-Original-URL`, `SSL-Client-Verify`. `Proxy` becomes `HTTP_PROXY` in CGI and
its successors.
"""

from collections.abc import Iterable
from typing import Final, final

from fastgw.http.messages import RequestHead

ANYTHING: Final = b"*"
"""Marker at the end of a name: any continuation matches."""

@final
class ReservedFields:
    """Field names, in any case and with any punctuation in place of a hyphen; a name that ends in `*` is a prefix.

    Names in `RequestHead.KNOWN` are never among them: they have rules of their own. `exempt`: names, but no
    prefixes, that are not reserved.
    """

    def __init__(self, names: Iterable[bytes], exempt: Iterable[bytes] = ()) -> None: ...
    def has(self, name: bytes) -> bool:
        """Whether `name` is one of them."""

    def take_out_of(self, head: RequestHead) -> tuple[bytes, ...]:
        """Remove the lines from `head` and return their names as they were sent."""

OWN_FIELDS: Final[ReservedFields]
"""Fields that are for the gateway alone: they are removed from the requests of trusted peers, too."""
