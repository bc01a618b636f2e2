"""Stage 1: a message, file or array -> a tensor; and the calibration of the camera."""
