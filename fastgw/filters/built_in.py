"""The filters that come with fastgw. Nothing is registered on import: the list is here."""

from typing import Final

from fastgw.filters.plugins.loader import FilterTypes
from fastgw.filters.policies.all_of import AllOf
from fastgw.filters.policies.auth import Auth
from fastgw.filters.policies.authorize import Authorize
from fastgw.filters.policies.basic_auth import BasicAuth
from fastgw.filters.policies.cache import Cache
from fastgw.filters.policies.certificate_auth import CertificateAuth
from fastgw.filters.policies.concurrency import Concurrency
from fastgw.filters.policies.content import QueryParameters, Validate
from fastgw.filters.policies.content_coding import Compress, Decompress
from fastgw.filters.policies.cors import Cors
from fastgw.filters.policies.credentials import Credentials
from fastgw.filters.policies.egress_calls import EgressCalls, UnknownService
from fastgw.filters.policies.forward_auth import ForwardAuth
from fastgw.filters.policies.grpc_bridges import ConnectRpc, GrpcWeb
from fastgw.filters.policies.grpc_transcode import GrpcTranscode
from fastgw.filters.policies.headers import Headers
from fastgw.filters.policies.hmac import Hmac
from fastgw.filters.policies.https_redirect import HttpsRedirect
from fastgw.filters.policies.introspection import Introspection
from fastgw.filters.policies.ip import Ip
from fastgw.filters.policies.jwt import Jwt
from fastgw.filters.policies.key_auth import KeyAuth
from fastgw.filters.policies.mirror import Mirror
from fastgw.filters.policies.oidc import Oidc
from fastgw.filters.policies.openapi import OpenApiDocument, OpenApiOperation
from fastgw.filters.policies.quota import Quota
from fastgw.filters.policies.rate_limit import RateLimit
from fastgw.filters.policies.request_id import RequestId
from fastgw.filters.policies.request_parameters import RequestParameters
from fastgw.filters.policies.response_urls import ResponseUrls
from fastgw.filters.policies.security_headers import SecurityHeaders
from fastgw.filters.policies.shield import CallSequence, Graphql, Misdirected
from fastgw.filters.policies.size import Size
from fastgw.filters.policies.target_errors import TargetErrors
from fastgw.filters.policies.traffic import Bandwidth, FaultInjection
from fastgw.filters.policies.transform import Transform
from fastgw.filters.policies.waf import Waf
from fastgw.filters.policies.websocket import Websocket

TYPES: Final = FilterTypes(
    (
        RequestId,
        Misdirected,
        HttpsRedirect,
        Ip,
        Cors,
        SecurityHeaders,
        Waf,
        Jwt,
        KeyAuth,
        BasicAuth,
        Hmac,
        CertificateAuth,
        Introspection,
        ForwardAuth,
        Oidc,
        Auth,
        AllOf,
        Authorize,
        RateLimit,
        Quota,
        Concurrency,
        Websocket,
        Bandwidth,
        CallSequence,
        Compress,
        Decompress,
        Size,
        Validate,
        Graphql,
        OpenApiOperation,
        OpenApiDocument,
        Cache,
        EgressCalls,
        UnknownService,
        GrpcWeb,
        ConnectRpc,
        Headers,
        QueryParameters,
        ResponseUrls,
        TargetErrors,
        Transform,
        GrpcTranscode,
        Mirror,
        FaultInjection,
        Credentials,
        RequestParameters,
    )
)
"""Filter types by name, in running order."""
