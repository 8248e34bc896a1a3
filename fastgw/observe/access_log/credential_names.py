"""Names of credentials: headers and members of bodies with these names have values that are not shown.

Access logs, taps, the live tail, recordings and `explain` ask here. A missed secret is worse than a false match, but
headers that people look for when they debug (`HARMLESS`) are shown. Members of bodies are judged more narrowly, because
`auth_type`, `session_count` and `primary_key` are ordinary data there; but one with a hyphen in its name is judged as a
header.
"""

import re
from collections.abc import Iterable
from typing import Final, final

from fastgw.observe.access_log.formats import SecretNames

HARMLESS: Final = frozenset(
    (
        *(b"www-authenticate", b"proxy-authenticate", b"sec-websocket-key", b"idempotency-key", b"cache-key"),
        *(b"x-idempotency-key", b"x-cache-key", b"surrogate-key", b"signature-input", b"accept-signature"),
    )
)
"""Headers without secrets that have such names."""
_CORS: Final = b"access-control-"
_EXACTLY: Final = frozenset((b"x-forwarded-client-cert", b"x-fastgw-debug", b"dpop"))
_SURELY: Final = (
    rb"passw|pwd|secret|credential|authori[sz]ation|jwt|bearer|(?:assertion|signature)(?!s)"
    rb"|(?:api|app|private|access|signing|subscription)[-_]?key|session[-_]?(?:id|key)"
    rb"|token(?!s|[-_]?(?:type|url|uri|endpoint|count))"
)
_MEMBER: Final = re.compile(_SURELY)
_HEADER: Final = re.compile(_SURELY + rb"|auth(?!or)|cookie|session|[-_]key$")


@final
class CredentialNames:
    """Names of credentials. `listed`: further names of headers, parameters and cookies with secrets."""

    def __init__(self, listed: Iterable[str] = ()) -> None:
        names = tuple(listed)
        self._parameters = SecretNames(names)
        self.mask = self._parameters.mask
        self._listed = frozenset(name.lower().encode() for name in names)

    def has_header(self, name: bytes) -> bool:
        """Whether a header, which has this name in lower case, has a credential as its value."""
        return self._has_name(name) or is_credential_header(name)

    def has_member(self, name: bytes) -> bool:
        """Whether a member of a body or form, which has this name in lower case, has a credential as its value."""
        return self._has_name(name) or is_credential_member(name)

    def _has_name(self, name: bytes) -> bool:
        return name in self._listed or not self._parameters.none_in(name + b"=")


def is_credential_header(name: bytes) -> bool:
    """Whether a header with this name, in lower case, has a credential as its value."""
    if name in HARMLESS or name.startswith(_CORS):
        return False
    return name in _EXACTLY or _HEADER.search(name) is not None


def is_credential_member(name: bytes) -> bool:
    """Whether a member of a body with this name, in lower case, has a credential as its value."""
    return is_credential_header(name) if b"-" in name else _MEMBER.search(name) is not None or name in _EXACTLY
