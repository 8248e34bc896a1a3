"""OpenAPI documents as a source of routes: operations, the schemas of what they take and answer, and documentation."""
