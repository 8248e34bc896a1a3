"""Configuration warnings that filters tell for themselves, with the filters around them at hand."""
