"""A procedural town: everything that can be seen, made from one seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selavpr_ros.errors import VprError
from selavpr_ros.simulation import sprites
from selavpr_ros.simulation.atlas import Atlas
from selavpr_ros.simulation.ground import Ground, paint_ground
from selavpr_ros.simulation.houses import Wall, build_fence, build_house, build_van, van_lot
from selavpr_ros.simulation.route import Route
from selavpr_ros.simulation.sky import Sky, paint_sky
from selavpr_ros.simulation.sprites import Thing
from selavpr_ros.simulation.streets import (
    LONGEST_LOOP_M,
    SHORTEST_LOOP_M,
    Lot,
    Street,
    off_the_roads,
    plan_lots,
    plan_streets,
    plan_towers,
)


@dataclass(frozen=True, eq=False)
class Walls:
    """All walls as arrays, so that a ray meets them all at once."""

    start: NDArray[np.float32]  # (N, 2)
    along: NDArray[np.float32]  # (N, 2) from the left to the right end
    length_m: NDArray[np.float32]  # (N,)
    bottom_m: NDArray[np.float32]  # (N,)
    top_m: NDArray[np.float32]  # (N,)
    snow_m: NDArray[np.float32]  # (N,) how far below the top snow can lie
    picture: NDArray[np.int64]  # (N,) number of its picture in the atlas
    atlas: Atlas

    @classmethod
    def gather(cls, walls: list[Wall]) -> Walls:
        """Arrays and atlas of single walls; a picture used twice is stored once."""
        pictures = {id(wall.picture): wall.picture for wall in walls}
        numbers = {key: number for number, key in enumerate(pictures)}
        start = np.array([wall.start for wall in walls], np.float32)
        along = np.array([wall.end for wall in walls], np.float32) - start
        return cls(
            start=start,
            along=along,
            length_m=np.hypot(along[:, 0], along[:, 1]),
            bottom_m=np.array([wall.bottom_m for wall in walls], np.float32),
            top_m=np.array([wall.top_m for wall in walls], np.float32),
            snow_m=np.array([wall.snow_m for wall in walls], np.float32),
            picture=np.array([numbers[id(wall.picture)] for wall in walls]),
            atlas=Atlas.pack(list(pictures.values())),
        )


@dataclass(frozen=True, eq=False)
class Block:
    """A house or a van as a whole, for its shadow and its roof on the map."""

    lot: Lot
    height_m: float


@dataclass(frozen=True, eq=False)
class World:
    """What `render` needs: walls, things, ground and sky, and the route that leads through."""

    seed: int
    route: Route
    streets: tuple[Street, ...]
    walls: Walls
    things: tuple[Thing, ...]
    ground: Ground
    sky: Sky
    blocks: tuple[Block, ...]

    @classmethod
    def generate(
        cls, seed: int = 0, length_m: float = 160.0, ground_pixels_per_m: float = 32.0
    ) -> World:
        """A town round a closed route of about `length_m`; the same seed gives the same pixels.

        Raises VprError when the loop is too short for houses on its inner side, or too long.
        """
        if not SHORTEST_LOOP_M <= length_m <= LONGEST_LOOP_M:
            raise VprError(
                f'a town needs a loop of {SHORTEST_LOOP_M:g} to {LONGEST_LOOP_M:g} m, '
                f'not of {length_m:g} m'
            )
        rng = np.random.default_rng(seed)
        streets = plan_streets(rng, length_m)
        lots = plan_lots(rng, streets)
        walls, blocks, gardens, things = _build(rng, lots)
        for tower in plan_towers(rng, streets, lots, count=max(4, round(length_m / 14))):
            height = float(rng.uniform(9, 19))
            walls += build_house(rng, tower, height)
            blocks.append(Block(tower, height))
        _park_vans(rng, streets, walls, blocks)
        things += _furnish(rng, streets, blocks)
        outlines = [block.lot.corners for block in blocks]
        return cls(
            seed=seed,
            route=Route.along(streets),
            streets=tuple(streets),
            walls=Walls.gather(walls),
            things=tuple(things),
            ground=paint_ground(rng, streets, gardens, outlines, ground_pixels_per_m),
            sky=paint_sky(rng),
            blocks=tuple(blocks),
        )


def _build(
    rng: np.random.Generator, lots: list[Lot]
) -> tuple[list[Wall], list[Block], list[Lot], list[Thing]]:
    """A house on most lots, a garden with a fence and a tree on the others."""
    walls: list[Wall] = []
    blocks: list[Block] = []
    gardens: list[Lot] = []
    things: list[Thing] = []
    for lot in lots:
        if rng.random() < 0.84:
            height = float(rng.uniform(3.6, 6.2) + rng.choice([0.0, 0.0, 3.0, 5.5]))
            walls += build_house(rng, lot, height)
            blocks.append(Block(lot, height))
            continue
        gardens.append(lot)
        if rng.random() < 0.75:
            walls += build_fence(rng, lot)
        for _ in range(int(rng.integers(1, 4))):
            x, y = lot.point(rng.uniform(-0.4, 0.4) * lot.width_m, rng.uniform(1.0, lot.depth_m))
            things.append(Thing(float(x), float(y), sprites.paint_tree(rng)))
    return walls, blocks, gardens, things


PAINTERS = (
    sprites.paint_tree,
    sprites.paint_lamp,
    sprites.paint_lamp,
    sprites.paint_road_sign,
    sprites.paint_road_sign,
    sprites.paint_column,
    sprites.paint_bin,
    sprites.paint_bin,
    sprites.paint_person,
)


def _park_vans(
    rng: np.random.Generator, streets: list[Street], walls: list[Wall], blocks: list[Block]
) -> None:
    """A van at the kerb of every street that is wide enough to pass it."""
    for street in streets:
        if street.road_m < 3.4 or street.length_m < 12.0:
            continue
        side = float(rng.choice([1.0, -1.0]))
        middle = street.point(
            rng.uniform(0.3, 0.7) * street.length_m, side * (street.road_m - 0.7)
        )
        lot, height = van_lot(rng, middle, street.along)
        if not off_the_roads(lot.samples, [other for other in streets if other is not street]):
            continue
        walls += build_van(rng, lot, height)
        blocks.append(Block(lot, height))


def _furnish(rng: np.random.Generator, streets: list[Street], blocks: list[Block]) -> list[Thing]:
    """Trees, lamps, signs and people along the kerbs, except where a van or a house stands."""
    things = []
    for street in streets:
        for side in (1.0, -1.0):
            kerb = side * (street.road_m + 0.35)
            for place in np.arange(rng.uniform(1, 4), street.length_m - 1.0, rng.uniform(3, 6)):
                spot = street.point(place + rng.uniform(-0.8, 0.8), kerb)
                sprite = PAINTERS[int(rng.integers(len(PAINTERS)))](rng)
                is_taken = any(block.lot.contains(spot[None]).any() for block in blocks)
                if not is_taken and off_the_roads(spot[None], streets):
                    things.append(Thing(float(spot[0]), float(spot[1]), sprite))
    return things
