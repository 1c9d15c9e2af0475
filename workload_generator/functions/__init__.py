"""The functions that are measured: their catalog, their languages, and the toolchains that build and test them.

Commands, the emulator and results use it. The sources are in `functions/` of the repository."""
