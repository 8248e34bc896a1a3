"""TLS of sinks: the context for connections, and the errors of its files and of servers, for people."""

import ssl


def sink_context(ca: str | None, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Return a context that verifies the server. `ca`: PEM file; None: the authorities of the system. `certificate`
    and `key`: PEM files of the client certificate. Raises `OSError` with a text that names the file.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise OSError(0, f"{ca} has no certificate in PEM") from error
    except OSError as error:
        raise OSError(error.errno, f"{ca}: {error.strerror}") from error
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, password="")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                why = f"{key} is not the key of {certificate}"
            else:
                why = f"{certificate} and {key} are not a certificate and its key without a passphrase, in PEM"
            raise OSError(0, why) from error
        except OSError as error:
            raise OSError(error.errno, f"{certificate} or {key}: {error.strerror}") from error
    return context


def connection_reason(error: OSError) -> str:
    """Return why a connection failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'unknown error').replace('_', ' ').lower()}"
    if isinstance(error, TimeoutError):
        return "timed out"
    return error.strerror or str(error) or type(error).__name__
