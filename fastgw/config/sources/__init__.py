"""Where documents and values come from: files, includes, environment variables, DNS, extension packages."""
