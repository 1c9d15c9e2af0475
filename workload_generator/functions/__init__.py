"""The functions that are measured: their catalog, and the toolchains that build and test them."""
