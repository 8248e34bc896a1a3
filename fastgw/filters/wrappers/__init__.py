"""Filters around other filters: shadow runs, misconfigured ones that answer 500, preflights that are forwarded."""
