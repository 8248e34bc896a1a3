"""Expands the application gateway (`egress`) into ordinary routes, upstreams and filters."""
