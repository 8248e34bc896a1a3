"""Settings of a configuration, as structs. Messages about a setting are created where it is decoded."""
