"""Log → SQLite → answers: the operator's side of the results."""
