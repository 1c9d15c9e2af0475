"""The results: `ingest` reads logs into the SQLite database, `report` and `compare` answer questions from it.

Nothing here sends a request or writes a log. Only commands call this folder: `extract`, `combine`, `report`, `compare`,
`quickstart` and `scenario`.
"""
