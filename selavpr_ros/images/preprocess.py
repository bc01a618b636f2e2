"""Stage 1: an RGB image -> the normalised tensor that a model takes."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from selavpr_ros.errors import ImageError, SettingError

# Mean and deviation of ImageNet's RGB channels in [0, 1]: what DINOv2 was trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESIZES = ('stretch', 'area', 'pillow')

THUMBNAIL_WIDTH = 160
THUMBNAIL_QUALITY = 80  # of JPEG, in percent


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Subtract ImageNet's mean and divide by its deviation: (..., 3, H, W) in [0, 255]."""
    mean = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = images.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return (images / 255 - mean) / std


def denormalise(images: torch.Tensor) -> torch.Tensor:
    """Undo `normalise`: (..., 3, H, W) normalised -> [0, 255]."""
    mean = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = images.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return (images * std + mean) * 255


def _resize(image: np.ndarray, size: tuple[int, int], resize: str) -> torch.Tensor:
    if resize == 'pillow':
        bilinear = getattr(Image, 'Resampling', Image).BILINEAR  # Pillow 9.0 has no Resampling
        image = np.asarray(Image.fromarray(image).resize(size[::-1], bilinear))
    # A view on a message of a bag, or on Pillow's memory, is read-only: torch warns about it.
    writable = np.require(image, requirements=('C', 'W'))
    pixels = torch.from_numpy(writable).permute(2, 0, 1)[None].float()
    if resize == 'pillow':
        return pixels
    return functional.interpolate(
        pixels, size=size, mode='bilinear', antialias=resize == 'area')


def preprocess(image: np.ndarray, size: tuple[int, int], resize: str = 'stretch') -> torch.Tensor:
    """Resize an image, ignoring its aspect ratio, and normalise it.

    How to resize depends on the weights (`model.resize`). The published evaluations of SelaVPR,
    CricaVPR and FoL resize the tensor bilinearly WITHOUT antialias (torchvision 0.15): 'stretch'.
    SALAD's resizes with Pillow and rounds to whole numbers: 'pillow'. Models trained by this
    package and the HOG baseline average over the source pixels when the image shrinks: 'area'.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: (h, w) of the result in pixels.
        resize: one of RESIZES.

    Returns:
        (3, h, w) float32.

    Raises:
        ImageError: the array is not a non-empty (H, W, 3) uint8 image.
        SettingError: `resize` is none of RESIZES.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f'need an (H, W, 3) uint8 RGB image, got {image.dtype} {image.shape}')
    if resize not in RESIZES:
        raise SettingError(f"resize '{resize}' is none of {', '.join(RESIZES)}")
    return normalise(_resize(image, size, resize))[0]


def make_thumbnail(image: np.ndarray) -> bytes:
    """A small JPEG of an (H, W, 3) uint8 RGB image, for people who look at a map."""
    height, width = image.shape[:2]
    size = (THUMBNAIL_WIDTH, max(1, round(THUMBNAIL_WIDTH * height / width)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY]
    return cv2.imencode('.jpg', small[:, :, ::-1], options)[1].tobytes()
