"""Stage 3: keyframes in memory, in a file, shared; and the search for the most similar ones."""
