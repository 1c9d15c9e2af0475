"""A snapshot of Prometheus' data, brought here."""
