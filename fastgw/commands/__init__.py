"""The commands, by purpose."""
