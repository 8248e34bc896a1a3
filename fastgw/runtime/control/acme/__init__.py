"""Certificates by ACME in the control process: when each is obtained, and the challenges that workers answer."""
