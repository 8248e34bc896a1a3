"""Connections of TCP listeners: their bytes go to a target and back as they are, whatever protocol they are of."""
