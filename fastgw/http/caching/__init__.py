"""Decisions of a shared HTTP cache (RFC 9111) as pure functions: no I/O, no store, the clock is an argument.

`storing` decides whether a response may be stored, and makes the record that the store keeps as the head of the object
(`records`). `reuse` decides what a stored response is good for, `validation` how it is validated and freshened.
`keys`, `vary` and `no_vary_search` say which stored response belongs to a request, `invalidation` which ones a change
makes invalid, `cache_status` how all that is reported (RFC 9211). Dates are epoch seconds, durations are seconds.
"""
