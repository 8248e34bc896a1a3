"""Settings: what a configuration may say, as structs. A message about a setting is made where it is decoded."""
