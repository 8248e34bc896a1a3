"""The admin API: its endpoints, authentication, the dashboard, and the client for the commands."""

from typing import Final

TOKEN: Final = "FASTGW_ADMIN_TOKEN"
"""Environment variable with the token of the commands."""
