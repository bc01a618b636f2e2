"""The ROS 2 node: the only folder that imports rclpy, messages or cv_bridge."""
