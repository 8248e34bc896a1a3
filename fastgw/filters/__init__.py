"""The filters that come with fastgw. Nothing registers itself: this is the list."""

from typing import Final

from fastgw.filters.auth import Auth
from fastgw.filters.authorize import Authorize
from fastgw.filters.basic_auth import BasicAuth
from fastgw.filters.certificate_auth import CertificateAuth
from fastgw.filters.concurrency import Concurrency
from fastgw.filters.cors import Cors
from fastgw.filters.credentials import Credentials
from fastgw.filters.egress_calls import EgressCalls, UnknownService
from fastgw.filters.extensions import FilterTypes
from fastgw.filters.forward_auth import ForwardAuth
from fastgw.filters.headers import Headers
from fastgw.filters.hmac import Hmac
from fastgw.filters.https_redirect import HttpsRedirect
from fastgw.filters.introspection import Introspection
from fastgw.filters.ip import Ip
from fastgw.filters.jwt import Jwt
from fastgw.filters.key_auth import KeyAuth
from fastgw.filters.mirror import Mirror
from fastgw.filters.oidc import Oidc
from fastgw.filters.quota import Quota
from fastgw.filters.rate_limit import RateLimit
from fastgw.filters.request_id import RequestId
from fastgw.filters.request_parameters import RequestParameters
from fastgw.filters.response_urls import ResponseUrls
from fastgw.filters.security_headers import SecurityHeaders
from fastgw.filters.size import Size
from fastgw.filters.target_errors import TargetErrors

TYPES: Final = FilterTypes(
    (
        RequestId,
        HttpsRedirect,
        Ip,
        Cors,
        SecurityHeaders,
        Jwt,
        KeyAuth,
        BasicAuth,
        Hmac,
        CertificateAuth,
        Introspection,
        ForwardAuth,
        Oidc,
        Auth,
        Authorize,
        RateLimit,
        Quota,
        Concurrency,
        Size,
        EgressCalls,
        UnknownService,
        Headers,
        ResponseUrls,
        TargetErrors,
        Mirror,
        Credentials,
        RequestParameters,
    )
)
"""Filter types by name, in running order."""
