"""Reads Kyma's Applications and Secrets, and makes services of the application gateway from them."""
