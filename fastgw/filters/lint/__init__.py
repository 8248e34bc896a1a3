"""Configuration warnings about filters that can never take effect."""
