"""Tests of the cache's stores."""
