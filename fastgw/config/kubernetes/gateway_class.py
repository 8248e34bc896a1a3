"""GatewayClass: those of this controller are accepted."""

from typing import Final

from fastgw.config.kubernetes.cluster import CONTROLLER, generation_of
from fastgw.config.kubernetes.conditions import condition
from fastgw.config.kubernetes.model import TranslationContext

FEATURES: Final = (
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "GRPCRouteRequestHeaderModifier",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructurePropagation",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
)
"""Supported features, sorted."""


def translate(context: TranslationContext) -> frozenset[str]:
    """Return the names of the classes whose Gateways are served."""
    served = set()
    for (_, name), item in context.cluster.all("GatewayClass").items():
        spec = item.get("spec") or {}
        if spec.get("controllerName") != CONTROLLER:
            continue
        generation = generation_of(item)
        invalid = spec.get("parametersRef") is not None
        reason, message = ("InvalidParameters", "parametersRef is not supported") if invalid else ("Accepted", "")
        context.statuses["GatewayClass", "", name] = {
            "conditions": [
                condition("Accepted", not invalid, reason, generation, message),
                condition("SupportedVersion", True, "SupportedVersion", generation),
            ],
            "supportedFeatures": [{"name": feature} for feature in FEATURES],
        }
        if not invalid and name == context.settings.gateway_class:
            served.add(name)
    return frozenset(served)
