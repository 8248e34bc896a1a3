"""Outbound calls of filters to a server of their own: TLS settings, client authentication, throttling of refreshes."""
