"""Errors that say what is wrong and what to do; the command line prints them as one line."""


class VprError(Exception):
    """Base of every error that this package raises on purpose."""


class SettingError(VprError):
    """A setting is unknown or out of its range."""


class ImageError(VprError):
    """An image message cannot be turned into an RGB image."""


class CalibrationError(VprError):
    """A camera_info cannot be used."""


class UncalibratedError(CalibrationError):
    """A camera_info tells nothing of the images; most uses need no calibration."""


class DepthError(ImageError):
    """An image is depth, not what a camera sees."""


class DescriptorError(VprError):
    """The model made no descriptor of an image."""


class StampError(VprError):
    """An image is not newer than the one before."""


class PoseError(VprError):
    """A pose is invalid: NaN, infinity, a wrong size, or a quaternion that is no rotation."""


class CheckpointError(VprError):
    """A file is no checkpoint of a known model, or cannot be written as one."""


class BagError(VprError):
    """A rosbag cannot be read or written, or lacks the requested topic."""


class GroundTruthError(VprError):
    """A ground truth cannot be read."""


class FolderError(VprError):
    """A folder of results cannot be made or read, or is not empty."""


class MapError(VprError):
    """A map cannot be opened, read or written, or a keyframe does not fit into it."""


class UnreachableError(MapError):
    """The server of a shared map does not answer now; later it may."""


class NodeError(VprError):
    """The ROS node did not do what it was started for."""


class BackendError(VprError):
    """The example back-end cannot work here."""
