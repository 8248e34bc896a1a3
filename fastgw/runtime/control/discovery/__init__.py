"""Services that followed files come from, as the control process follows them: Vault, and service discovery."""
