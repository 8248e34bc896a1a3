"""Secrets planted by a test, and all places where they must not appear."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from fastgw.explain import as_text, explain
from fastgw.gateway.tables import Gateway
from fastgw.observe.access_log.line_formats import FORMATS
from fastgw.observe.access_log.record import Record
from fastgw.observe.access_log.secret_names import masker

SECRET_NAMES = (
    *("token", "access_token", "id_token", "refresh_token", "auth_token", "api_token", "id_token_hint", "logout_token"),
    *("private_token", "oauth_token", "csrf_token", "x-api-token", "jwt", "bearer", "authorization", "auth", "session"),
    *("session_id", "jsessionid", "PHPSESSID", "assertion", "client_assertion", "SAMLResponse", "code", "ticket"),
    *("otp", "secret", "client_secret", "password", "new_password", "passwd", "pwd", "pass", "credential"),
    *("passphrase", "passcode", "auth_key", "licenseKey", "auth_code", "device_code", "verification-code", "mfa_code"),
    *("_csrf", "XSRF", "code_verifier", "oauth_verifier"),
    *("credentials", "key", "api_key", "x-api-key", "secret_key", "private_key", "access_key", "subscription-key"),
    *("sig", "signature", "x-amz-signature", "x-amz-credential", "x-amz-security-token", "X-Goog-Signature"),
)
"""Names whose values are secret wherever they are: in headers, cookies, queries, paths and bodies."""


def reported(records: list[Record], gateway: Gateway) -> str:
    """Return the access log lines of these requests in all formats."""
    (log, *_) = gateway.config.access_logs
    return b"".join(line(record, masker(log.redact)) for record in records for line in FORMATS.values()).decode()


def explained(gateway: Gateway, url: str, *lines: str) -> str:
    """Return the output of `fastgw explain` for a request, as text and as JSON."""
    found = explain(gateway, "GET", url, lines)
    return as_text(found) + msgspec.json.encode(found).decode() + repr(found)


def shown(value: Any) -> str:
    """Return the `repr` of a value and of its contents."""
    inner = [getattr(value, each.name) for each in fields(value)] if is_dataclass(value) else []
    return repr(value) + "".join(map(repr, inner))
