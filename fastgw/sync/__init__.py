"""State that one process sends to all others: feeds, revocations, drained targets; and the credential cache that
revocations clear.
"""
