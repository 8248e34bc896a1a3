"""Reads Kyma's Applications and Secrets, and turns them into services of the application gateway."""
