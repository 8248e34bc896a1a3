"""The cache store that all workers of a node share: a log of segments and an index, in a sealed memory file."""
