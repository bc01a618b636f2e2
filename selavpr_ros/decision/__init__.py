"""Stage 5: which candidate is a loop closure or a relocalization, and why others are not."""
