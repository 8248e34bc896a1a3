"""TCP proxying: bytes of a client's connection are forwarded to a target and back unchanged, whatever their
protocol.
"""
