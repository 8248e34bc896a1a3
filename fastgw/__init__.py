"""fastgw: an API gateway and reverse proxy. For users: README.md; for developers: CONTRIBUTING.md."""

VERSION = "0.1.0"
