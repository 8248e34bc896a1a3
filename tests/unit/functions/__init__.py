"""Functions as back ends."""
