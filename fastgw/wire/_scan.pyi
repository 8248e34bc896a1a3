"""The compiled twin of `heads` and `splice`."""

from typing import final

from fastgw.wire import heads
from fastgw.wire.heads import find_head_end as find_head_end
from fastgw.wire.heads import judge_answer as judge_answer
from fastgw.wire.heads import judge_request as judge_request
from fastgw.wire.heads import judge_response as judge_response
from fastgw.wire.heads import read_request as read_request
from fastgw.wire.heads import read_response as read_response
from fastgw.wire.heads import taken as taken
from fastgw.wire.splice import end_to_end as end_to_end
from fastgw.wire.splice import request as request
from fastgw.wire.splice import response as response

# To type checkers these are the reference's, though not derived from them.
@final
class RequestHead(heads.RequestHead): ...  # type: ignore[misc] # final, as the twin is

@final
class ResponseHead(heads.ResponseHead): ...  # type: ignore[misc] # final, as the twin is
