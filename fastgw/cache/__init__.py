"""Object stores of the response cache: a key leads to an opaque head and a body. They know no HTTP."""
