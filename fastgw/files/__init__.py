"""Static files: the route action `files`.

Rule 1: a path leads to a file beneath the root or nowhere: the kernel resolves it from the root's descriptor
(`beneath`), so neither symbolic links nor a race lead out of it.
Rule 2: the event loop waits for no disk: files are opened and examined in threads, and read on the loop only if the
page cache has them (`file_body`).
"""
