"""Signed tokens judged: JWS in its compact form (RFC 7515), JWT (RFC 7519), their keys (RFC 7517) and algorithms
(RFC 7518, 8037, 8812), by the rules of RFC 8725.

Rule 1: nothing here waits, reads a file or knows an event loop; the time is an argument.
Rule 2: a token says nothing about how it is to be judged. Which algorithms count is told by the caller, which of them
a key serves by the key; what a header says of keys is never followed.
Rule 3: what could be read in two ways is refused (repeated members, encodings with bits to spare, text that is not
UTF-8), and so is what is not understood but says that it must be (`crit`).
Rule 4: a refusal says why in words, and never shows what stands in the token.
"""

from fastgw.jose.algorithms import ALGORITHMS, Algorithm
from fastgw.jose.claims import ClaimPath, Claims, Expected, check_claims, claim_path, find_claim, scopes_of
from fastgw.jose.keys import Key, KeySet, UnusableKey, key_from_secret, keys_from_pem, read_keys, read_set
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
    "claim_path",
    "find_claim",
    "key_from_secret",
    "keys_from_pem",
    "read_keys",
    "read_set",
    "read_token",
    "scopes_of",
    "verify",
]
