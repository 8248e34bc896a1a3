"""OpenAPI documents as a source of routes."""
