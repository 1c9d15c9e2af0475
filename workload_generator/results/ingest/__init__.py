"""Logs and receipts into the SQLite database."""
