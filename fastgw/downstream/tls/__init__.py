"""TLS to clients: connections on OpenSSL's memory BIOs, and the contexts chosen by server name."""
