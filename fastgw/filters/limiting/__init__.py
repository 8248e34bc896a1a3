"""What filters that limit have in common: keys, where counts are kept, what clients are told."""
