"""Conditions under which the camera sees the world: sun, weather and the camera's own state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import NDArray


class Season(IntEnum):
    """What the trees wear, and what lies on the ground."""

    SUMMER = 0
    AUTUMN = 1  # coloured and fallen leaves
    WINTER = 2  # bare branches and snow


CLEAR_M = 1e6
# the shortest and the longest sight in each kind of weather
SIGHT_M = {
    'clear': (CLEAR_M, CLEAR_M),
    'overcast': (150.0, 400.0),
    'fog': (9.0, 35.0),
    'wet': (50.0, 200.0),
}


@dataclass(frozen=True)
class Light:
    """What differs between two visits of a place. The default is a mild, clear morning."""

    sun_azimuth_rad: float = 0.6  # where the sun stands, counter-clockwise from x
    sun_elevation_rad: float = 0.75
    sun_strength: float = 0.4  # 0 = overcast without shadows, 0.6 = hard southern light
    exposure: float = 1.0  # factor on all brightness
    contrast: float = 1.0  # slope round middle grey
    saturation: float = 1.0  # 0 = black and white
    warmth: float = 0.0  # -1 = bluish, 1 = evening
    haze_range_m: float = 300.0  # distance at which two thirds of the colour are lost
    vignette: float = 0.12  # loss of brightness in the image corners
    noise: float = 1.5  # standard deviation, grey levels
    blur_px: float = 0.45  # standard deviation of the lens blur
    cloud_shift_rad: float = 0.0  # turns the clouds against the skyline
    season: Season = Season.SUMMER
    cover: float = 0.0  # share of the ground under leaves in autumn, under snow in winter
    rain: float = 0.0  # 1 = streets that mirror, drops on the lens
    snowfall: float = 0.0  # 1 = flakes everywhere
    sight_m: float = CLEAR_M  # distance at which fog leaves a third of the contrast
    darkness: float = 0.0  # 1 = night; lamps and windows shine
    smear_px: float = 0.0  # longest motion blur of a turning camera

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Light:
        """Conditions at random, from clear noon to a snowy night: for training."""
        season = Season(int(rng.integers(len(Season))))
        weather = str(rng.choice(list(SIGHT_M), p=[0.4, 0.2, 0.15, 0.25]))
        shortest_m, longest_m = SIGHT_M[weather]
        fall = float(rng.uniform(0.3, 1.0)) if weather == 'wet' else 0.0
        is_frosty = season is Season.WINTER and rng.random() < 0.6
        deepest = (0.0, 0.45, 1.0 if is_frosty else 0.0)
        return cls(
            season=season,
            cover=float(rng.uniform(0.2, 1.0) * deepest[season]),
            rain=0.0 if is_frosty else fall,
            snowfall=fall if is_frosty else 0.0,
            sight_m=float(shortest_m * (longest_m / shortest_m) ** rng.random()),
            darkness=float(np.clip(rng.normal(-0.5, 0.7), 0.0, 1.0)),
            smear_px=float(np.clip(rng.normal(0.0, 3.0), 0.0, 6.0)),
            sun_azimuth_rad=float(rng.uniform(-math.pi, math.pi)),
            sun_elevation_rad=float(rng.uniform(0.5, 1.1)),
            sun_strength=float(rng.uniform(0.0, 0.6)) if weather == 'clear' else 0.0,
            exposure=float(np.exp(rng.normal(0.0, 0.25))),
            contrast=float(rng.uniform(0.7, 1.25)),
            saturation=float(rng.uniform(0.4, 1.2)),
            warmth=float(rng.uniform(-0.8, 1.0)),
            haze_range_m=float(np.exp(rng.uniform(np.log(40.0), np.log(500.0)))),
            vignette=float(rng.uniform(0.0, 0.4)),
            noise=float(rng.uniform(0.5, 6.0)),
            blur_px=float(rng.uniform(0.3, 0.9)),
            cloud_shift_rad=float(rng.uniform(0.0, 2 * math.pi)),
        )

    @property
    def snow(self) -> float:
        """Share of the ground under snow."""
        return self.cover if self.season is Season.WINTER else 0.0

    @property
    def sun_direction(self) -> tuple[float, float]:
        """Unit vector in the plane that points towards the sun."""
        return math.cos(self.sun_azimuth_rad), math.sin(self.sun_azimuth_rad)

    def tone_curves(self) -> NDArray[np.uint8]:
        """(256, 3) the camera's red, green and blue for each brightness of the scene."""
        tint = np.array([1 + 0.16 * self.warmth, 1.0, 1 - 0.2 * self.warmth])
        seen = np.arange(256)[:, None] * (self.exposure * tint)
        curved = 128 + (seen - 128) * self.contrast
        soft = np.where(curved > 215, 215 + 40 * np.tanh((curved - 215) / 40), curved)
        return np.clip(soft, 0, 255).astype(np.uint8)

    def develop(
        self, image: NDArray[np.float32], rng: np.random.Generator | None
    ) -> NDArray[np.uint8]:
        """Scene brightness (H,W,3), 0-255, to the picture that the camera delivers.

        The grain and the length of the motion blur come from `rng`; without it there are none.
        """
        if rng is not None and self.smear_px > 0:
            image = cv2.blur(image, (round(rng.uniform(1, 1 + self.smear_px)), 1))
        if self.saturation != 1.0:
            grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            image = cv2.addWeighted(image, self.saturation, grey, 1 - self.saturation, 0)
        if self.blur_px > 0:
            image = cv2.GaussianBlur(image, (3, 3), self.blur_px)
        toned = cv2.LUT(np.clip(image, 0, 255).astype(np.uint8), self.tone_curves()[None])
        if rng is None or self.noise <= 0:
            return toned
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        return cv2.add(toned, grain * self.noise, dtype=cv2.CV_8U)


MORNING = Light()
EVENING = Light(
    sun_azimuth_rad=-2.3,
    sun_elevation_rad=0.6,
    sun_strength=0.5,
    exposure=0.92,
    contrast=0.95,
    warmth=0.75,
    vignette=0.28,
    noise=4.0,
    haze_range_m=200.0,
    cloud_shift_rad=2.0,
)
NOON = Light(
    sun_azimuth_rad=1.5,
    sun_elevation_rad=1.0,
    exposure=1.15,
    contrast=1.1,
    warmth=-0.2,
    noise=2.5,
    cloud_shift_rad=4.0,
)
LAP_LIGHTS = (MORNING, EVENING, NOON)
