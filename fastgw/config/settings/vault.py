"""Settings of Vault: where `{vault: path#key}` secrets come from, and how the gateway authenticates there."""

from typing import Annotated, Final

from msgspec import Meta

from fastgw.config.base.settings_base import Settings
from fastgw.config.base.value_types import URL, Duration, FileName, Url
from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.upstreams import UpstreamTls

ACCOUNT_TOKEN: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"
VaultUrl = Annotated[Url, URL]
Mount = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$")]


class VaultAppRole(Settings):
    """Authentication by AppRole."""

    role_id: Secret
    """RoleID of the gateway."""
    secret_id: Secret
    """SecretID of the gateway."""
    mount: Mount = "approle"
    """Path of the auth method, below `auth/`."""


class VaultKubernetes(Settings):
    """Authentication by the token of a Kubernetes service account."""

    role: Annotated[str, Meta(min_length=1, max_length=256)]
    """Role of the auth method."""
    token_file: Annotated[str, FileName(readable=False)] = ACCOUNT_TOKEN
    """File with the token of the service account. It is read again for each login, because it rotates."""
    mount: Mount = "kubernetes"
    """Path of the auth method, below `auth/`."""


class VaultAuth(Settings):
    """Authentication to Vault: exactly one of its settings."""

    approle: VaultAppRole | None = None
    """Authentication by AppRole."""
    kubernetes: VaultKubernetes | None = None
    """Authentication by the token of a Kubernetes service account."""
    token: Secret | None = None
    """A token, such as `{file: /run/vault/token}`, which Vault Agent writes. It is renewed if it is renewable."""

    def __post_init__(self) -> None:
        if [self.approle, self.kubernetes, self.token].count(None) != 2:
            raise ValueError("expected exactly one of `approle`, `kubernetes` and `token`")


class Vault(Settings):
    """HashiCorp Vault or OpenBao, whose secrets (KV version 2) settings name: `{vault: secret/app#password}` in place
    of a secret. A secret that has changed takes effect without a reload. While Vault is unreachable, or a secret is
    missing, the last values stay in use; only a start needs Vault."""

    address: VaultUrl
    """URL, such as `https://vault.example:8200`."""
    auth: VaultAuth
    """Authentication at Vault."""
    mount: Mount | None = None
    """Path of the KV engine. Paths of secrets are relative to it. null = the first segment of a path is the mount, as
    in `vault kv get secret/app`."""
    namespace: Mount | None = None
    """Namespace (Vault Enterprise, OpenBao). null = none."""
    interval: Duration = 60.0
    """Interval between two reads of a secret: a new version takes effect within this time. Randomized by a tenth."""
    timeout: Duration = 5.0
    """Timeout of a request. Total."""
    tls: UpstreamTls = UpstreamTls()
    """TLS settings, for an address with https."""

    def __post_init__(self) -> None:
        if self.address.scheme not in ("http", "https"):
            raise ValueError("`address` is not an http or https URL")
