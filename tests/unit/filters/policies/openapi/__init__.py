"""Filters of routes that are made of OpenAPI documents."""
