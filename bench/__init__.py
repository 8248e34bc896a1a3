"""What fastgw costs, measured beside the proxies people use now: `python -m bench --help`."""
