"""A picture that is painted in metres: the tool with which facades and streets are made."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]
Picture = NDArray[np.uint8]


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], cell_px: float, octaves: int = 3
) -> NDArray[np.float32]:
    """Cloud-like noise, about -1 to 1; `cell_px` is the size of its largest blobs in pixels."""
    height, width = shape
    noise = np.zeros(shape, np.float32)
    for octave in range(octaves):
        cell = max(cell_px / 2**octave, 1.0)
        coarse = rng.uniform(-1.0, 1.0, (int(height / cell) + 2, int(width / cell) + 2))
        noise += cv2.resize(
            coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR
        ) * (0.6 / 1.6**octave)
    return noise


def to_picture(values: NDArray[np.floating]) -> Picture:
    """Colour values clipped to uint8."""
    return np.clip(values, 0.0, 255.0).astype(np.uint8)


def shaded(colour: Colour, factor: float) -> Colour:
    """A colour made darker (factor < 1) or lighter (> 1)."""
    red, green, blue = (min(255.0, channel * factor) for channel in colour)
    return red, green, blue


class Canvas:
    """A picture of `width_m` x `height_m`; x to the right, z upwards, both in metres.

    It is RGB, or, if `transparent`, RGB multiplied by alpha, with alpha as fourth channel.
    """

    def __init__(
        self, width_m: float, height_m: float, pixels_per_m: float, *, transparent: bool = False
    ) -> None:
        self.width_m = width_m
        self.height_m = height_m
        self.pixels_per_m = pixels_per_m
        self.shape = (
            max(2, round(height_m * pixels_per_m)),
            max(2, round(width_m * pixels_per_m)),
        )
        self.opaque = (255.0,) if transparent else ()
        self.pixels: Picture = np.zeros((*self.shape, 3 + len(self.opaque)), np.uint8)

    def corner(self, x_m: float, z_m: float) -> tuple[int, int]:
        """Pixel (column, row) of a point; clipped to the canvas."""
        column = round(x_m * self.pixels_per_m)
        row = round((self.height_m - z_m) * self.pixels_per_m)
        return min(max(column, 0), self.shape[1]), min(max(row, 0), self.shape[0])

    def region(self, x0_m: float, z0_m: float, x1_m: float, z1_m: float) -> Picture:
        """The pixels of a rectangle, as a view to paint into; may be empty at the border."""
        left, bottom = self.corner(x0_m, z0_m)
        right, top = self.corner(x1_m, z1_m)
        return self.pixels[top:bottom, left:right]

    def rectangle(
        self, x0_m: float, z0_m: float, x1_m: float, z1_m: float, colour: Colour
    ) -> None:
        """A filled rectangle."""
        self.region(x0_m, z0_m, x1_m, z1_m)[:] = np.asarray((*colour, *self.opaque), np.uint8)

    def shade(
        self, x0_m: float, z0_m: float, x1_m: float, z1_m: float, bottom: float, top: float
    ) -> None:
        """Multiplies a rectangle by a factor that runs from `bottom` to `top`."""
        view = self.region(x0_m, z0_m, x1_m, z1_m)
        factors = np.linspace(top, bottom, view.shape[0], dtype=np.float32)[:, None, None]
        view[:] = to_picture(view * factors)

    def polygon(self, points_m: list[tuple[float, float]], colour: Colour) -> None:
        """A filled, smooth-edged polygon."""
        corners = np.array(
            [
                (x * self.pixels_per_m * 16, (self.height_m - z) * self.pixels_per_m * 16)
                for x, z in points_m
            ]
        )
        outline = corners.round().astype(np.int32)
        cv2.fillPoly(self.pixels, [outline], (*colour, *self.opaque), cv2.LINE_AA, 4)

    def ellipse(
        self, x_m: float, z_m: float, radius_x_m: float, radius_z_m: float, colour: Colour
    ) -> None:
        """A filled ellipse round its centre."""
        angles = np.linspace(0.0, 2 * np.pi, 24, endpoint=False)
        self.polygon(
            [(x_m + radius_x_m * np.cos(a), z_m + radius_z_m * np.sin(a)) for a in angles], colour
        )

    def line(
        self, x0_m: float, z0_m: float, x1_m: float, z1_m: float, width_m: float, colour: Colour
    ) -> None:
        """A straight stroke with square ends."""
        along = np.array([x1_m - x0_m, z1_m - z0_m])
        length = max(float(np.hypot(*along)), 1e-6)
        dx, dz = -along[1] / length * width_m / 2, along[0] / length * width_m / 2
        self.polygon(
            [
                (x0_m + dx, z0_m + dz),
                (x1_m + dx, z1_m + dz),
                (x1_m - dx, z1_m - dz),
                (x0_m - dx, z0_m - dz),
            ],
            colour,
        )
