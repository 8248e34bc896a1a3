import ssl
from collections.abc import Mapping

from fastgw.net.ocsp_stapling import Staple

def staple(context: ssl.SSLContext, responses: Mapping[bytes, Staple]) -> None: ...
def why_missing() -> str | None: ...
