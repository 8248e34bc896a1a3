"""The filters that come with fastgw: one file, or one folder, per policy.

Each file has the filter's settings, its documentation and its factory; the list is in `fastgw.filters.built_in`.
"""
