"""Who sees instances come and go: the proof of cold starts, and their phases."""
