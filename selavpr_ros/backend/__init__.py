"""An example SLAM back-end: loop closures and odometry become one trajectory; needs gtsam."""
