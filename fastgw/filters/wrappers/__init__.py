"""Wrappers of filters: shadow mode, misconfigured filters that answer 500, forwarded preflights."""
