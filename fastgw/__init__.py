"""fastgw: an API gateway and reverse proxy. For users: README.md; the map of the code: CONTRIBUTING.md."""

VERSION = "0.1.0"
