"""TLS settings of filters that call a service of their own, validated with the configuration."""

from collections.abc import Callable
from typing import Final

from fastgw.config.base.value_types import Endpoint
from fastgw.config.settings.gateway import UpstreamTls
from fastgw.net.pem import authority_problem, pair_problem
from fastgw.upstream.targets.tls import ClientTls, read_tls

_DEFAULT: Final = UpstreamTls()


def check_tls(url: Endpoint, tls: UpstreamTls) -> None:
    """Validate a combination of settings. Raises `ValueError`."""
    if tls != _DEFAULT and not url.origin.tls:
        raise ValueError("`tls` is set, but the URL is not https")
    if (tls.certificate is None) != (tls.key is None):
        given, lacking = ("certificate", "key") if tls.certificate else ("key", "certificate")
        raise ValueError(f"`tls` has a `{given}` but no `{lacking}`")


def client_tls(read_file: Callable[[str], bytes], tls: UpstreamTls) -> ClientTls:
    """Return the TLS settings with the contents of their files. Raises the exceptions of `read_file`, and `ValueError`
    for an invalid certificate or key, or if they do not match.
    """
    read = read_tls(tls, read_file)
    ca, certificate, key = read.material
    if ca is not None and (wrong := authority_problem(ca)):
        raise ValueError(f"{tls.ca}: {wrong}")
    if certificate is not None and key is not None and (found := pair_problem(certificate, key)) is not None:
        raise ValueError(f"{getattr(tls, found.of)}: {found.wrong}; {found.expected}")
    return read
