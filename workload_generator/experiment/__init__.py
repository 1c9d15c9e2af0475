"""Experiments: the file, its keys and values, and the schedule of arrivals. Nothing here sends requests.

Runs, scenarios and commands read experiments here; the emulator and the catalog of functions read their files with
`fields` and `yaml_lines`."""
