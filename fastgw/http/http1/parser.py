"""Heads judged: what a request or response head means, and how the body behind it ends (RFC 9112 sections 2 to 6).

A head with more than one meaning is refused, not repaired. `heads` is the reference, in front of which its compiled
twin stands where there is one.
"""

from typing import TYPE_CHECKING

from fastgw.compiled import twin
from fastgw.http.http1 import parser_reference
from fastgw.http.http1.parser_reference import Http1RequestHead, Http1ResponseHead

__all__ = [
    "Http1RequestHead",
    "Http1ResponseHead",
    "body_buffer",
    "find_head_end",
    "judge_answer",
    "judge_request",
    "judge_response",
    "take_answer",
    "take_request",
    "taken",
]

if TYPE_CHECKING:
    _judges = parser_reference
else:
    _judges = twin("fastgw.http.http1._parser") or parser_reference

find_head_end = _judges.find_head_end
judge_request = _judges.judge_request
judge_response = _judges.judge_response
judge_answer = _judges.judge_answer
body_buffer = _judges.body_buffer
taken = _judges.taken
take_request = _judges.take_request
take_answer = _judges.take_answer
