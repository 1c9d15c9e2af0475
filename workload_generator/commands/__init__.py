"""The commands, one module each under its typed name; `flags` has what they share. Only commands print and exit."""
