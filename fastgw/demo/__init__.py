"""`fastgw demo`: the gateway in front of a small service, with a page that shows what to try."""
