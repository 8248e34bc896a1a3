"""The admin API: its endpoints, authentication, the dashboard, and the client for the commands."""
