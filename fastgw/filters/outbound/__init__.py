"""What filters use when they call a server of their own: TLS settings, client authentication, throttling of
refreshes.
"""
