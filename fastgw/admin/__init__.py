"""The admin API: its endpoints, who may call them, the dashboard, and the client that the commands use."""
