"""transform: mappings, templates, and the bodies that they change."""
