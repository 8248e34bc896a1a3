"""Access logs, taps and recordings have one judgement: which names of headers and members are of credentials."""

from __future__ import annotations

from fastgw.capture.redaction import Redaction
from fastgw.observe.access_log.credential_names import CredentialNames, is_credential_member
from fastgw.observe.access_log.formats import masker
from fastgw.observe.access_log.log_fields import chosen_field
from fastgw.recording.redaction import RecordRedaction
from tests.support.table import for_each
from tests.unit.observe.access_log.test_log_lines import of_request

CREDENTIALS = [
    *("Authorization", "Proxy-Authorization", "Authentication-Info", "X-Auth", "X-MyApp-Auth", "X-Auth-Key", "DPoP"),
    *("X-Session", "Mcp-Session-Id", "X-Signature", "X-Hub-Signature-256", "Signature", "X-Client-Assertion"),
    *("X-Bearer", "X-Pwd", "X-Passwd", "X-Functions-Key", "Ocp-Apim-Subscription-Key", "X-Api-Key", "apikey", "Key"),
    *("X-Request-Key", "X-Amz-Security-Token", "X-CSRF-Token", "X-JWT-Assertion", "X-Forwarded-Client-Cert"),
    *("X-Own", "x_own_2"),
]
HARMLESS = [
    *("WWW-Authenticate", "Proxy-Authenticate", "Access-Control-Allow-Credentials", "Sec-WebSocket-Key"),
    *("Idempotency-Key", "Cache-Key", "Surrogate-Key", "Signature-Input", "X-Tokens-Left", "X-Author"),
    *("X-Forwarded-Authority", "Keep-Alive", "X-Monkey", "Accept"),
]


@for_each(("name", "is_hidden"), [*((name, True) for name in CREDENTIALS), *((name, False) for name in HARMLESS)])
def test_a_header_is_shown_by_all_or_by_none(name: str, is_hidden: bool) -> None:
    listed = ("X-Own", "X_Own_2")
    raw, shown = name.encode(), b"***" if is_hidden else b"planted"
    assert CredentialNames(listed).has_header(raw.lower()) is is_hidden
    assert Redaction(listed).fields([(raw, b"planted")]) == [(raw, shown)]
    head = b"GET / HTTP/1.1\r\n%b: %b\r\n\r\n"
    assert RecordRedaction(listed).head(head % (raw, b"planted"), set()) == head % (raw, shown)
    field = chosen_field(f"header.{name}", listed)
    assert field.value(of_request(raw + b": planted\r\n"), masker(listed)) == shown.decode()


@for_each(
    ("name", "is_hidden"),
    [
        *((name, True) for name in (b"newpassword", b"userpwd", b"saml_assertion", b"x-auth", b"api_key", b"dpop")),
        *((name, False) for name in (b"author", b"auth_type", b"session_count", b"primary_key", b"signatures", b"x-a")),
    ],
)
def test_members_of_bodies_are_judged_more_narrowly(name: bytes, is_hidden: bool) -> None:
    assert is_credential_member(name) is is_hidden
