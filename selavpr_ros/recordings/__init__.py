"""Bags with their poses and their truth, read without ROS, and replayed."""
