"""What loads a contestant, and how each kind of load tells what it saw."""
