"""What a system is worth on image folders with truth: recall, baselines, pictures."""
