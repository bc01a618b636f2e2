"""The plan of the town: a closed loop of streets and the lots beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]  # (2,)
Cell = tuple[int, int]

SHORTEST_LOOP_M = 60.0
LONGEST_LOOP_M = 800.0  # beyond it the pictures no longer fit into one atlas
BLOCK_M = 20.0  # usual distance between two corners
TURN_M = 5.0  # a corner is rounded from this distance on
CUT_M = 0.38 * TURN_M  # by which rounding a right angle shortens the way


@dataclass(frozen=True, eq=False)
class Street:
    """A straight piece of the loop from one corner to the next."""

    start: Vector
    end: Vector
    half_width_m: float  # centre line to house fronts
    pavement_m: float

    @cached_property
    def length_m(self) -> float:
        return float(np.hypot(*(self.end - self.start)))

    @cached_property
    def along(self) -> Vector:
        """Unit vector in driving direction."""
        return (self.end - self.start) / self.length_m

    @cached_property
    def left(self) -> Vector:
        """Unit vector to the left of the driving direction."""
        return np.array([-self.along[1], self.along[0]])

    @cached_property
    def road_m(self) -> float:
        """Half the width of the roadway."""
        return self.half_width_m - self.pavement_m

    def point(self, along_m: float, left_m: float) -> Vector:
        """World coordinates of a point given along and across the street."""
        return self.start + self.along * along_m + self.left * left_m


@dataclass(frozen=True, eq=False)
class Lot:
    """A rectangle to build on. `right` and `inward` are as seen from the street."""

    front: Vector  # middle of the front line
    right: Vector
    inward: Vector
    width_m: float
    depth_m: float

    def point(self, right_m: float, inward_m: float) -> Vector:
        """World coordinates of a point given from the middle of the front line."""
        return self.front + self.right * right_m + self.inward * inward_m

    @cached_property
    def corners(self) -> NDArray[np.float64]:
        """(4, 2) front left, front right, back right, back left."""
        half = self.width_m / 2
        return np.array(
            [
                self.point(-half, 0),
                self.point(half, 0),
                self.point(half, self.depth_m),
                self.point(-half, self.depth_m),
            ]
        )

    @cached_property
    def samples(self) -> NDArray[np.float64]:
        """(N, 2) points all over the lot, about a metre apart."""
        across = np.linspace(-0.5, 0.5, math.ceil(self.width_m) + 1) * self.width_m
        inward = np.linspace(0.0, 1.0, math.ceil(self.depth_m) + 1) * self.depth_m
        u, v = (grid.ravel()[:, None] for grid in np.meshgrid(across, inward))
        return self.front + u * self.right + v * self.inward

    def contains(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(N,) which of the points lie inside, a hand's breadth from the border."""
        offsets = points - self.front
        across, inward = np.abs(offsets @ self.right), offsets @ self.inward
        return (across < self.width_m / 2 - 0.1) & (inward > 0.1) & (inward < self.depth_m - 0.1)


def _border(cells: set[Cell]) -> list[Cell] | None:
    """Corners of the outline of grid cells, counter-clockwise; None if it is not one loop."""
    following: dict[Cell, Cell] = {}
    sides = [((0, -1), (0, 0), (1, 0)), ((1, 0), (1, 0), (1, 1))]
    sides += [((0, 1), (1, 1), (0, 1)), ((-1, 0), (0, 1), (0, 0))]
    count = 0
    for x, y in cells:
        for (nx, ny), (ax, ay), (bx, by) in sides:
            if (x + nx, y + ny) not in cells:
                following[x + ax, y + ay] = (x + bx, y + by)
                count += 1
    outline = [min(following)]
    while following[outline[-1]] != outline[0] and len(outline) < count:
        outline.append(following[outline[-1]])
    return outline if len(outline) == count == len(following) else None


def _turns(outline: list[Cell]) -> int:
    """Number of corners of an outline."""
    points = np.array(outline)
    steps = np.roll(points, -1, axis=0) - points
    return int((steps != np.roll(steps, 1, axis=0)).any(axis=1).sum())


def draw_outline(rng: np.random.Generator, sides: int) -> list[Cell]:
    """A random loop on a grid with this many sides, with at least six corners where it can."""
    while True:
        cells: set[Cell] = {(0, 0)}
        outline = _border(cells)
        while outline is not None and len(outline) < sides:
            x, y = sorted(cells)[int(rng.integers(len(cells)))]
            dx, dy = [(1, 0), (0, 1), (-1, 0), (0, -1)][int(rng.integers(4))]
            cells.add((x + dx, y + dy))
            outline = _border(cells)
        if outline and len(outline) == sides and _turns(outline) >= (6 if sides >= 8 else 4):
            return outline


def plan_streets(rng: np.random.Generator, length_m: float) -> list[Street]:
    """A closed loop of streets; the way along it, with rounded corners, is about `length_m`."""
    outline = draw_outline(rng, max(4, round(length_m / BLOCK_M / 2) * 2))
    grid = np.array(outline) - np.min(outline, axis=0)
    spacing = rng.uniform(0.85, 1.2, (int(grid.max()) + 1, 2)).cumsum(axis=0)
    corners = np.column_stack([spacing[grid[:, 0], 0], spacing[grid[:, 1], 1]])
    corners += rng.uniform(-0.07, 0.07, corners.shape)
    perimeter = np.hypot(*(np.roll(corners, -1, axis=0) - corners).T).sum()
    corners *= (length_m + _turns(outline) * CUT_M) / perimeter
    corners -= corners.mean(axis=0)
    return [
        Street(start, end, float(rng.uniform(4.2, 6.0)), float(rng.uniform(1.3, 1.9)))
        for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True)
    ]


def distance_to(street: Street, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) distance of points from the centre line of a street."""
    offsets = points - street.start
    along = np.clip(offsets @ street.along, 0.0, street.length_m)
    return np.hypot(*(offsets - along[:, None] * street.along).T)


def off_the_roads(points: NDArray[np.float64], streets: list[Street]) -> bool:
    """Whether all points (N, 2) lie beside the roadways of these streets."""
    return all((distance_to(s, points) > s.road_m + 0.25).all() for s in streets)


def is_free(lot: Lot, streets: list[Street], lots: list[Lot]) -> bool:
    """Whether a lot keeps off all streets and all other lots."""
    samples = lot.samples
    if any((distance_to(s, samples) < s.half_width_m - 0.01).any() for s in streets):
        return False
    near = [o for o in lots if np.hypot(*(o.front - lot.front)) < 25.0]
    if not near:
        return True
    others = np.vstack([other.samples for other in near])
    return not (lot.contains(others).any() or any(o.contains(samples).any() for o in near))


def plan_lots(rng: np.random.Generator, streets: list[Street]) -> list[Lot]:
    """Lots on both sides of every street, closed round the corners."""
    lots: list[Lot] = []
    for street in streets:
        for side in (1.0, -1.0):
            _fill_side(rng, street, side, streets, lots)
    return lots


def _fill_side(
    rng: np.random.Generator, street: Street, side: float, streets: list[Street], lots: list[Lot]
) -> None:
    """Lines up lots along one side of a street, as wide as the place allows."""
    inward = street.left * side
    right = np.array([inward[1], -inward[0]])
    reach = street.half_width_m + 7.0
    position = -reach
    while position < street.length_m + reach:
        width, setback = rng.uniform(5.5, 10.5), float(rng.choice([0.0, 0.0, 0.4, 1.2, 2.2]))
        for share, depth in ((1.0, 7.0), (0.75, 5.0), (0.55, 4.0), (0.4, 3.0)):
            middle = position + width * share / 2
            front = street.point(middle, side * (street.half_width_m + setback))
            lot = Lot(front, right, inward, width * share, depth)
            if is_free(lot, streets, lots):
                lots.append(lot)
                position += width * share
                break
        else:
            position += 0.7


def plan_towers(
    rng: np.random.Generator, streets: list[Street], lots: list[Lot], count: int
) -> list[Lot]:
    """Lots for tall buildings in the second row, seen above the roofs."""
    ends = np.array([street.start for street in streets])
    towers: list[Lot] = []
    for _ in range(count * 10):
        if len(towers) == count:
            break
        middle = rng.uniform(ends.min(axis=0) - 30.0, ends.max(axis=0) + 30.0)
        angle = rng.uniform(0, 2 * math.pi)
        inward = np.array([math.cos(angle), math.sin(angle)])
        right = np.array([inward[1], -inward[0]])
        lot = Lot(middle, right, inward, rng.uniform(7, 13), rng.uniform(7, 13))
        clear = min(distance_to(street, lot.samples).min() for street in streets)
        if clear > 14.0 and is_free(lot, streets, lots + towers):
            towers.append(lot)
    return towers
