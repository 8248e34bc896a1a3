"""fastgw: an API gateway and reverse proxy. `docs`: README.md; the map of the code: CONTRIBUTING.md."""

VERSION = "0.1.0"
