"""The request pipeline, independent of the protocol version: route selection, then the steps of its filters."""
