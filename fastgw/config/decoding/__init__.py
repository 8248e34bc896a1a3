"""Turns documents into settings: typed decoding with positions, merging of files, filters of all levels, the JSON
Schema.
"""
