"""The site's own page, `fdn-worker ui`: to this machine alone, by whoever was shown its address.

`serving.py` starts it, `guard.py` decides who is let in, `application.py` has the pages, `shown.py` what is shown of a file.
HTML is made here, with no script in it: what a task leaves is nobody's friend, and a browser that may run nothing runs
nothing of it.
"""
