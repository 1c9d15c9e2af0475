"""The log of a run: its format, its records, and the recorder process that writes it.

Reading logs into a database is `results/ingest`. Runs write through `writer.Log`; readers of logs use `format`."""
