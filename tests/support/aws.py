"""A stand-in for services of AWS: verifies signatures with botocore, and writes event streams."""

from __future__ import annotations

import re
import struct
from binascii import crc32
from hashlib import sha256
from typing import Final

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCESS_KEY: Final = "AKIDEXAMPLE"
SECRET_KEY: Final = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
_SCOPE: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)


def check_signature(raw: bytes, token: str = "") -> tuple[str, str]:
    """Check the signature of a request as received. Returns the region and the service it is for."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        assert name.lower() not in fields or name.lower() not in ("authorization", "x-amz-date"), f"{name} twice"
        fields[name.lower()] = f"{fields[name.lower()]},{value}" if name.lower() in fields else value
    found = _SCOPE.fullmatch(fields["authorization"])
    assert found is not None, fields["authorization"]
    access_key, day, region, service, names, signature = found.groups()
    assert access_key == ACCESS_KEY
    assert fields["x-amz-date"].startswith(day)
    signed = {name: fields[name] for name in names.split(";")}
    assert {"host", "x-amz-date", "x-amz-content-sha256"} <= signed.keys()
    assert signed.get("x-amz-security-token", "") == token
    if signed["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD":
        assert signed["x-amz-content-sha256"] == sha256(body).hexdigest()
    signer_of = S3SigV4Auth if service == "s3" else SigV4Auth
    signer = signer_of(Credentials(ACCESS_KEY, SECRET_KEY, token or None), service, region)
    request = AWSRequest(method=method, url=f"https://{fields['host']}{target}", headers=signed, data=body)
    request.context["timestamp"] = fields["x-amz-date"]
    request.context["payload_signing_enabled"] = signed["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD"
    canonical = signer.canonical_request(request)
    assert signer.signature(signer.string_to_sign(request, canonical), request) == signature, canonical
    return region, service


def stream_message(payload: bytes, **headers: str) -> bytes:
    """Return a message of an event stream. `headers`: with `_` for `-`, and without the colon."""
    block = b""
    for name, value in headers.items():
        key = b":" + name.replace("_", "-").encode()
        block += bytes([len(key)]) + key + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    prelude += struct.pack(">I", crc32(prelude))
    message = prelude + block + payload
    return message + struct.pack(">I", crc32(message))


def stream_piece(payload: bytes) -> bytes:
    """Return a piece of a function's streamed response."""
    return stream_message(payload, message_type="event", event_type="PayloadChunk")


STREAM_END: Final = stream_message(b"{}", message_type="event", event_type="InvokeComplete")
