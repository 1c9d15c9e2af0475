"""Log files and receipts → the database: `extract` is the way in, `combine` adds recorded usage of nodes and pods.

Each format has its input file, which turns lines into rows; nothing here interprets results beyond counting them (see
`report`). The commands `extract`, `combine`, `scenario` and `quickstart` call it.
"""
