"""Validation of signed tokens: JWS compact serialization (RFC 7515), JWT (RFC 7519), keys (RFC 7517) and algorithms
(RFC 7518, 8037, 8812), by the rules of RFC 8725.

Rule 1: no waiting, no files, no event loop; the time is an argument. Rule 2: a token never decides how it is verified.
The caller chooses the accepted algorithms, the key those that it supports; references to keys in a header are never
followed. Rule 3: ambiguous input is rejected (duplicate members, non-zero spare bits in base64url, text that is not
UTF-8), and so are unknown critical headers (`crit`). Rule 4: an error names its reason, and never shows the token.
"""

from fastgw.jose.algorithms import ALGORITHMS, Algorithm
from fastgw.jose.claims import ClaimPath, Claims, Expected, check_claims, claim_json, claim_path, find_claim, scopes_of
from fastgw.jose.keys import (
    Key,
    KeySet,
    UnusableKey,
    key_from_secret,
    keys_from_pem,
    read_keys,
    read_set,
    secret_from_base64,
)
from fastgw.jose.strict import TokenRefused
from fastgw.jose.token import Signed, TokenRules, UnknownKey, read_token, verify

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "ClaimPath",
    "Claims",
    "Expected",
    "Key",
    "KeySet",
    "Signed",
    "TokenRefused",
    "TokenRules",
    "UnknownKey",
    "UnusableKey",
    "check_claims",
    "claim_json",
    "claim_path",
    "find_claim",
    "key_from_secret",
    "keys_from_pem",
    "read_keys",
    "read_set",
    "read_token",
    "scopes_of",
    "secret_from_base64",
    "verify",
]
