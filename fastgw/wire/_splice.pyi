"""The compiled twin of `splice`."""

from fastgw.wire.splice import end_to_end as end_to_end
from fastgw.wire.splice import request as request
from fastgw.wire.splice import response as response
from fastgw.wire.splice import whole as whole
