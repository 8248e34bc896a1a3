"""Analytics: requests by route, consumer and status over weeks, in an SQLite database of the gateway's own."""
