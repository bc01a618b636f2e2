"""What a keyframe map costs: bytes, time and recall by codec, and times as the map grows."""
