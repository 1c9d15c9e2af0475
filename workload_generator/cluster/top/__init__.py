"""`kn-bench top`: usage of nodes and pods, recorded."""
