"""Names of credentials: headers, cookies, parameters and members of bodies with these names have values that are not
shown.

Access logs, traces, taps, the live tail, stories, recordings and `explain` ask here, by `SecretNames`. A missed secret
is worse than a false match, but headers that people look for when they debug (`HARMLESS`) are shown. Parameters and
members of bodies are judged more narrowly, because `auth_type`, `session_count` and `primary_key` are ordinary data
there; but one with a hyphen in its name is judged as a header.
"""

import re
from typing import Final

HARMLESS: Final = frozenset(
    (
        *(b"www-authenticate", b"proxy-authenticate", b"sec-websocket-key", b"idempotency-key", b"cache-key"),
        *(b"x-idempotency-key", b"x-cache-key", b"surrogate-key", b"signature-input", b"accept-signature"),
    )
)
"""Headers without secrets that have such names."""
WORDS: Final = ("auth", "session", "code", "pass", "key", "sig", "ticket")
"""Whole names of secrets, of which other names may have a part (`country_code`)."""
_CORS: Final = b"access-control-"
_EXACTLY: Final = frozenset((b"x-forwarded-client-cert", b"x-fastgw-debug", b"dpop"))
_SIGNS: Final = (b"", b"_", b"-")
_KEYS: Final = tuple(
    kind + sign + b"key"
    for kind in (b"api", b"app", b"auth", b"private", b"access", b"license", b"signing", b"subscription")
    for sign in _SIGNS
)
_CODES: Final = tuple(
    kind + sign + b"code" for kind in (b"auth", b"device", b"mfa", b"verification") for sign in _SIGNS
)
_SURELY: Final = (
    rb"pass(?:w|code|phrase)|pwd|[cx]srf|verifier|secret|credential|authori[sz]ation|jwt|bearer|(?:assertion|signature)(?!s)"
    rb"|" + b"|".join(_KEYS + _CODES) + rb"|sess(?:ion)?[-_]?(?:id|key)|saml[-_]?(?:response|art)|(?:\A|[-_])[th]?otp\Z"
    rb"|token(?!s|[-_]?(?:type|url|uri|endpoint|count))"
)
_MEMBER: Final = re.compile(_SURELY)
_HEADER: Final = re.compile(_SURELY + rb"|auth(?!or)|cookie|session|[-_]key$")
HINTS: Final = (
    *(
        b"passw",
        b"passcode",
        b"passphrase",
        b"pwd",
        b"csrf",
        b"xsrf",
        b"verifier",
        b"secret",
        b"credential",
        b"authori",
        b"jwt",
        b"bearer",
        b"assertion",
        b"signature",
    ),
    *(*_KEYS, *_CODES, b"sess", b"saml", b"otp", b"token", b"dpop"),
)
"""Parts, of at least three bytes, of all names of credentials in lower case that have no hyphen."""
HINTS_OF_HEADERS: Final = (b"auth", b"cookie", b"-key", b"_key", *(_EXACTLY - {b"dpop"}))
"""Parts of those that have none of `HINTS`."""


def is_credential_header(name: bytes) -> bool:
    """Whether a header with this name, in lower case, has a credential as its value."""
    if name in HARMLESS or name.startswith(_CORS):
        return False
    return name in _EXACTLY or _HEADER.search(name) is not None


def is_credential_member(name: bytes) -> bool:
    """Whether a parameter, or a member of a body, with this name, in lower case, has a credential as its value."""
    return is_credential_header(name) if b"-" in name else _MEMBER.search(name) is not None or name in _EXACTLY
