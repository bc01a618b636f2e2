"""What a keyframe map costs: its bytes, what they buy, and its times as it grows."""
