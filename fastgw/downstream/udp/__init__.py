"""Sessions of UDP listeners: datagrams of a client are forwarded to one target, and its responses back."""
