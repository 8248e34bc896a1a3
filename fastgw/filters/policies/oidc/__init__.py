"""oidc: OpenID Connect authentication, by a bearer token or by a login in the browser."""

from fastgw.filters.policies.oidc.filter import Oidc

__all__ = ["Oidc"]
