"""Access logs, taps and recordings have one judgement: which names are of credentials."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastgw.capture.redaction import Redaction
from fastgw.observe.access_log.credential_names import HINTS, HINTS_OF_HEADERS, is_credential_member
from fastgw.observe.access_log.log_fields import chosen_field
from fastgw.observe.access_log.secret_names import SecretNames, masker
from fastgw.recording.redaction import RecordRedaction
from tests.support.secrecy import SECRET_NAMES
from tests.support.table import for_each
from tests.unit.observe.access_log.test_log_lines import of_request

CREDENTIALS = [
    *("Authorization", "Proxy-Authorization", "Authentication-Info", "X-Auth", "X-MyApp-Auth", "X-Auth-Key", "DPoP"),
    *("X-Session", "Mcp-Session-Id", "X-Signature", "X-Hub-Signature-256", "Signature", "X-Client-Assertion"),
    *("X-Bearer", "X-Pwd", "X-Passwd", "X-Functions-Key", "Ocp-Apim-Subscription-Key", "X-Api-Key", "apikey", "Key"),
    *("X-Request-Key", "X-Amz-Security-Token", "X-CSRF-Token", "X-JWT-Assertion", "X-Forwarded-Client-Cert"),
    *("X-Own", "x_own_2"),
]
FORM = b"application/x-www-form-urlencoded"
PIECES = (
    b"passw pwd secret credential authorization authorisation auth or jwt bearer assertion signature s api app private "
    b"access signing subscription key sess session ion id saml response art h t otp token type cookie dpop code "
    b"device mfa verification verifier license phrase c x srf a - _ 1"
).split()
HARMLESS = [
    *("WWW-Authenticate", "Proxy-Authenticate", "Access-Control-Allow-Credentials", "Sec-WebSocket-Key"),
    *("Idempotency-Key", "Cache-Key", "Surrogate-Key", "Signature-Input", "X-Tokens-Left", "X-Author"),
    *("X-Forwarded-Authority", "Keep-Alive", "X-Monkey", "Accept"),
]


@for_each(("name", "is_hidden"), [*((name, True) for name in CREDENTIALS), *((name, False) for name in HARMLESS)])
def test_a_header_is_shown_by_all_or_by_none(name: str, is_hidden: bool) -> None:
    listed = ("X-Own", "X_Own_2")
    raw, shown = name.encode(), b"***" if is_hidden else b"planted"
    assert SecretNames(listed).has_header(raw.lower()) is is_hidden
    assert Redaction(listed).fields([(raw, b"planted")]) == [(raw, shown)]
    head = b"GET / HTTP/1.1\r\n%b: %b\r\n\r\n"
    assert RecordRedaction(listed).head(head % (raw, b"planted"), set()) == head % (raw, shown)
    field = chosen_field(f"header.{name}", listed)
    assert field.value(of_request(raw + b": planted\r\n"), masker(listed)) == shown.decode()


@for_each(
    ("name", "is_hidden"),
    [
        *((name, True) for name in (b"newpassword", b"userpwd", b"saml_assertion", b"x-auth", b"api_key", b"dpop")),
        *(
            (name, False)
            for name in (
                b"author",
                b"auth_type",
                b"session_count",
                b"primary_key",
                b"signatures",
                b"x-a",
                b"country_code",
                b"status_code",
                b"zipcode",
                b"user_code",
            )
        ),
    ],
)
def test_members_of_bodies_are_judged_more_narrowly(name: bytes, is_hidden: bool) -> None:
    assert is_credential_member(name) is is_hidden


@for_each("name", SECRET_NAMES)
def test_a_secret_is_hidden_wherever_it_is(name: str) -> None:
    raw, redaction, recording = name.encode(), Redaction(), RecordRedaction(())
    assert redaction.fields([(raw, b"planted")]) == [(raw, b"***")]
    assert b"planted" not in redaction.fields([(b"Cookie", raw + b"=planted")])[0][1]
    assert b"planted" not in redaction.path(b"/a;%b=planted/b" % raw)
    assert b"planted" not in (redaction.query(b"a=1&%b=planted" % raw) or b"")
    for kind, body in ((b"application/json", b'{"a":1,"%b":"planted"}'), (FORM, b"a=1&%b=planted")):
        assert b"planted" not in redaction.body([(b"Content-Type", kind)], body % raw, 1000).content
    head = b"GET /a;%b=planted?%b=planted HTTP/1.1\r\n%b: planted\r\n\r\n" % (raw, raw, raw)
    assert b"planted" not in recording.head(head, set())


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(b"".join))
def test_every_name_of_a_credential_has_a_hint(name: bytes) -> None:
    """Recordings look for hints first."""
    hints = (*HINTS, *HINTS_OF_HEADERS) if b"-" in name else HINTS
    assert not is_credential_member(name) or any(hint in name for hint in hints)
