"""The airlock: what an attempt left waits at the site until the site's release rules, or its person, let it go.

`rules.py` is the settings' section, `kinds.py` tells a file's type by its content, `checks.py` looks into files,
`airlock.py` judges an attempt's files, `desk.py` is where a person decides.
"""
