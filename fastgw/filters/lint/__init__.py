"""Configuration warnings of filters, with their position among other filters."""
