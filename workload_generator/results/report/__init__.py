"""The SQLite database into answers, tables, pictures and the page."""
