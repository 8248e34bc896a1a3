"""An HTTP client for the gateway's own calls: key sets, token endpoints, authorization servers."""
