"""Rules of an upstream for each request: retries, hedging, path rewriting, traffic splits."""
