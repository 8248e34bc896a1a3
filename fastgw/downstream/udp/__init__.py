"""Sessions of UDP listeners: datagrams of a client go to one target, and what that answers goes back."""
