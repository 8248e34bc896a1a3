"""Sources of documents and values: files, includes, environment variables, DNS, extension packages."""
