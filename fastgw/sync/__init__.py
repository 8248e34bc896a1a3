"""State that one process passes on to all others: feeds, revocations, drained targets; and the credential cache that
revocations clear.
"""
