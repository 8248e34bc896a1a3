"""Hand-made HTTP/2: frames, a client that sends them and records responses, and hostile cases built from them."""
