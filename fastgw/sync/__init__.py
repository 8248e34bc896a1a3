"""What one process tells all others: feeds, revocations, drained targets; and the credential cache that
revocations clear.
"""
