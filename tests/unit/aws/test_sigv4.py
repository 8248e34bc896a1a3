"""Signatures of requests, verified with botocore's own signer."""

from __future__ import annotations

from hashlib import sha256

from fastgw.aws.sigv4 import EMPTY_DIGEST, UNSIGNED, AwsKeys, AwsSigner, canonical_query
from tests.support.aws import ACCESS_KEY, SECRET_KEY, check_signature
from tests.support.table import for_each

NOW = 1_700_000_000.0
PATHS = [b"/", b"/a/b", b"/a%20b/%C3%A4", b"/2015-03-31/functions/arn:aws:lambda:eu-central-1:1:function:f/invocations"]
PATHS += [b"/a//b", b"//", b"/a///", b"/a/./b/../c/.", b"/../a/..", b"/a/...//"]
QUERIES = [None, b"", b"a=1", b"b=2&a=1&a=0&a-b=3&A=4", b"x=a+b&y=%2F%2f&empty=&none&%C3%A4=~", b"q=a=b&&"]


@for_each("service", ["lambda", "execute-api", "s3"])
@for_each("path", PATHS)
@for_each("query", QUERIES)
def test_botocore_computes_the_same(service: str, path: bytes, query: bytes | None) -> None:
    if service == "s3" and b":" in path:  # which botocore expects to be encoded already, as clients of S3 do
        path = path.replace(b":", b"%3A")
    for token, body in (("", b""), ("tok/en=", b"body")):
        signer = AwsSigner(AwsKeys(ACCESS_KEY, SECRET_KEY, token), "eu-central-1", service)
        sent = canonical_query(query)
        digest = sha256(body).hexdigest() if body else EMPTY_DIGEST
        lines = signer.sign(b"POST", b"a.test:8443", path, sent, digest, NOW)
        target = path if sent is None else path + b"?" + sent
        raw = b"POST %b HTTP/1.1\r\nHost: a.test:8443\r\n%b\r\n%b" % (target, lines, body)
        assert check_signature(raw, token) == ("eu-central-1", service)


def test_a_body_may_be_left_out() -> None:
    signer = AwsSigner(AwsKeys(ACCESS_KEY, SECRET_KEY, ""), "eu-central-1", "s3")
    lines = signer.sign(b"PUT", b"b.test", b"/k", None, UNSIGNED, NOW)
    check_signature(b"PUT /k HTTP/1.1\r\nHost: b.test\r\n%b\r\nanything" % lines)


def test_another_day_has_another_key() -> None:
    signer = AwsSigner(AwsKeys(ACCESS_KEY, SECRET_KEY, ""), "eu-central-1", "lambda")
    for now in (NOW, NOW + 86_400, NOW):
        lines = signer.sign(b"GET", b"a", b"/", None, EMPTY_DIGEST, now)
        check_signature(b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % lines)


def test_no_secret_is_shown() -> None:
    keys = AwsKeys(ACCESS_KEY, SECRET_KEY, "t")
    assert SECRET_KEY not in repr(keys) + repr(AwsSigner(keys, "r", "s"))
