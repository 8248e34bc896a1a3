"""The route table: from host, path, method and conditions to a route, compiled once and shared by all requests."""
