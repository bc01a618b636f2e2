"""Stage 1: a message, a file or an array becomes a tensor; the camera that it came from."""
