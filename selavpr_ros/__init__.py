"""Visual place recognition for ROS 2: from camera images to loop-closure candidates."""

__version__ = '0.1.0'
