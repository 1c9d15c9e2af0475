"""The log file: its format, its records, and the recorder process that writes it."""
