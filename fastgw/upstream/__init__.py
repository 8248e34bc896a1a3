"""Upstreams: targets, connections, load balancing, health, and how requests are forwarded to them."""
