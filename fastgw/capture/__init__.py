"""Capture of exchanges with their bodies, for `fastgw tap` and `fastgw record`."""
