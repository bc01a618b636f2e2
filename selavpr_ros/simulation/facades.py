"""Paints the fronts of houses: storeys, windows, doors, shops with signs, cornices and dirt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selavpr_ros.simulation.canvas import Canvas, Colour, Picture, shaded
from selavpr_ros.simulation.materials import (
    DOOR_LAMP,
    LIT_WINDOW,
    TAIL_LAMP,
    Material,
    brick,
    courses,
    pick,
    roof_tiles,
    wall_material,
)

PIXELS_PER_M = 32.0

BRIGHT: list[Colour] = [
    (198, 44, 40),
    (32, 96, 168),
    (34, 128, 84),
    (236, 180, 44),
    (240, 238, 230),
    (40, 40, 46),
    (146, 62, 132),
    (238, 122, 40),
    (70, 170, 186),
]
FRAMES: list[Colour] = [(236, 234, 226), (70, 50, 40), (52, 60, 66), (150, 40, 36), (58, 92, 76)]
DOORS: list[Colour] = [(92, 54, 36), (36, 62, 96), (128, 32, 34), (40, 84, 62), (70, 70, 74)]


@dataclass(frozen=True)
class FacadeStyle:
    """What the storeys of one house have in common. Lengths in metres."""

    material: Material
    colour: Colour
    trim: Colour
    frame: Colour
    storey_m: float
    window_width_m: float
    window_height_m: float
    window_gap_m: float
    panes: tuple[int, int]
    arched: bool
    shutters: Colour | None
    glass_wall: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> FacadeStyle:
        """A style at random."""
        material, colour = wall_material(rng)
        return cls(
            material=material,
            colour=colour,
            trim=shaded(colour, float(rng.choice([0.62, 0.8, 1.25, 1.45]))),
            frame=pick(rng, FRAMES, 8),
            storey_m=float(rng.uniform(2.7, 3.5)),
            window_width_m=float(rng.uniform(0.8, 1.9)),
            window_height_m=float(rng.uniform(1.2, 1.9)),
            window_gap_m=float(rng.uniform(0.5, 1.5)),
            panes=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
            arched=bool(rng.random() < 0.2),
            shutters=pick(rng, BRIGHT) if rng.random() < 0.22 else None,
            glass_wall=bool(rng.random() < 0.1),
        )


def paint_material(
    canvas: Canvas,
    rng: np.random.Generator,
    box_m: tuple[float, float, float, float],
    material: Material,
    colour: Colour,
) -> None:
    """Fills the rectangle (x0, z0, x1, z1) with a material."""
    view = canvas.region(*box_m)
    if view.size:
        view[:] = material(rng, view.shape[:2], canvas.pixels_per_m, colour)


def paint_glass(
    canvas: Canvas, rng: np.random.Generator, box_m: tuple[float, float, float, float]
) -> None:
    """A pane: sky above, the street below, perhaps a curtain, a blind, a lamp or a plant."""
    x0, z0, x1, z1 = box_m
    canvas.rectangle(x0, z0, x1, z1, pick(rng, [(96, 116, 136), (70, 84, 98), (120, 134, 144)]))
    canvas.shade(x0, z0, x1, z1, 0.45, rng.uniform(0.9, 1.5))
    what = rng.random()
    if what < 0.35:
        curtain = pick(rng, [(226, 220, 206), (200, 160, 130), (170, 180, 190)])
        share = rng.uniform(0.15, 0.4) * (x1 - x0)
        canvas.rectangle(x0, z0, x0 + share, z1, curtain)
        canvas.rectangle(x1 - share, z0, x1, z1, shaded(curtain, 0.85))
    elif what < 0.6:
        canvas.rectangle(x0, z1 - rng.uniform(0.2, 0.8) * (z1 - z0), x1, z1, (206, 200, 184))
    elif what < 0.7:
        canvas.rectangle(x0, z0, x1, z1, LIT_WINDOW)
    elif what < 0.8:
        canvas.ellipse((x0 + x1) / 2, z0 + 0.15, 0.28, 0.3, (66, 110, 52))


def paint_window(
    canvas: Canvas,
    rng: np.random.Generator,
    style: FacadeStyle,
    box_m: tuple[float, float, float, float],
) -> None:
    """A window in its recess: surround, frame, panes, sill with its shadow, shutters."""
    x0, z0, x1, z1 = box_m
    canvas.rectangle(x0 - 0.12, z0 - 0.08, x1 + 0.12, z1 + 0.16, style.trim)
    if style.arched:
        canvas.ellipse((x0 + x1) / 2, z1, (x1 - x0) / 2 + 0.12, 0.42, style.trim)
        canvas.ellipse((x0 + x1) / 2, z1, (x1 - x0) / 2, 0.3, style.frame)
    canvas.rectangle(x0, z0, x1, z1, style.frame)
    paint_glass(canvas, rng, (x0 + 0.07, z0 + 0.07, x1 - 0.07, z1 - 0.07))
    canvas.shade(x0, z1 - 0.16, x1, z1, 0.75, 0.45)
    for share in np.arange(1, style.panes[0]) / style.panes[0]:
        middle = x0 + share * (x1 - x0)
        canvas.rectangle(middle - 0.03, z0, middle + 0.03, z1, style.frame)
    for share in np.arange(1, style.panes[1]) / style.panes[1]:
        middle = z0 + share * (z1 - z0)
        canvas.rectangle(x0, middle - 0.03, x1, middle + 0.03, style.frame)
    canvas.rectangle(x0 - 0.16, z0 - 0.12, x1 + 0.16, z0, shaded(style.trim, 1.15))
    canvas.shade(x0 - 0.16, z0 - 0.34, x1 + 0.16, z0 - 0.12, 1.0, 0.55)
    if style.shutters is not None:
        paint_shutters(canvas, style.shutters, box_m)


def paint_shutters(
    canvas: Canvas, colour: Colour, box_m: tuple[float, float, float, float]
) -> None:
    """A pair of open shutters with slats."""
    x0, z0, x1, z1 = box_m
    for left, right in ((x0 - 0.45, x0 - 0.08), (x1 + 0.08, x1 + 0.45)):
        canvas.rectangle(left, z0, right, z1, colour)
        for z in np.arange(z0 + 0.1, z1, 0.16):
            canvas.rectangle(left + 0.05, z, right - 0.05, z + 0.06, shaded(colour, 0.7))


def paint_glyphs(
    canvas: Canvas,
    rng: np.random.Generator,
    box_m: tuple[float, float, float, float],
    colour: Colour,
) -> None:
    """A word in made-up letters: each glyph is a few strokes between six points."""
    x0, z0, x1, z1 = box_m
    size = (z1 - z0) * 0.62
    step = size * 0.85
    points = [(0, 0), (0.55, 0), (0, 0.5), (0.55, 0.5), (0, 1), (0.55, 1)]
    for x in np.arange(x0 + size * 0.3, x1 - step, step):
        if rng.random() < 0.12:
            continue
        path = [points[i] for i in rng.permutation(6)[: int(rng.integers(3, 6))]]
        base = z0 + (z1 - z0) * 0.19
        for (ax, az), (bx, bz) in zip(path, path[1:], strict=False):
            canvas.line(
                x + ax * size,
                base + az * size,
                x + bx * size,
                base + bz * size,
                size * 0.17,
                colour,
            )


def paint_sign(
    canvas: Canvas, rng: np.random.Generator, box_m: tuple[float, float, float, float]
) -> None:
    """A sign board: ground, border, a word and an emblem."""
    x0, z0, x1, z1 = box_m
    ground, ink = (BRIGHT[i] for i in rng.permutation(len(BRIGHT))[:2])
    canvas.rectangle(x0, z0, x1, z1, shaded(ink, 0.7))
    canvas.rectangle(x0 + 0.05, z0 + 0.05, x1 - 0.05, z1 - 0.05, ground)
    size = (z1 - z0) * 0.36
    if x1 - x0 > 2.0:
        emblem = [
            (x0 + 0.6 + size * r * np.cos(a), (z0 + z1) / 2 + size * r * np.sin(a))
            for a, r in zip(
                np.linspace(0, 2 * np.pi, int(rng.integers(3, 11)), endpoint=False),
                np.tile([1.0, rng.uniform(0.4, 1.0)], 6),
                strict=False,
            )
        ]
        canvas.polygon(emblem, ink)
        x0 += 1.0
    paint_glyphs(canvas, rng, (x0, z0, x1, z1), ink)


def paint_door(canvas: Canvas, rng: np.random.Generator, x_m: float, style: FacadeStyle) -> None:
    """A house door with panels, a lit transom, a step and a lamp."""
    colour = pick(rng, DOORS)
    width, height = rng.uniform(0.95, 1.5), rng.uniform(2.0, 2.4)
    x0, x1 = x_m - width / 2, x_m + width / 2
    canvas.rectangle(x0 - 0.18, 0, x1 + 0.18, height + 0.6, style.trim)
    canvas.rectangle(x0, 0, x1, height, colour)
    for column in range(2):
        left = x0 + 0.12 + column * (width / 2 - 0.04)
        for low, high in ((0.25, 0.95), (1.1, height - 0.2)):
            canvas.rectangle(left, low, left + width / 2 - 0.2, high, shaded(colour, 0.65))
            canvas.rectangle(
                left + 0.06, low + 0.06, left + width / 2 - 0.26, high - 0.06, shaded(colour, 1.2)
            )
    paint_glass(canvas, rng, (x0, height + 0.06, x1, height + 0.42))
    canvas.rectangle(x0 - 0.3, 0, x1 + 0.3, 0.16, (150, 148, 144))
    canvas.rectangle(x1 + 0.3, 1.2, x1 + 0.5, 1.45, pick(rng, BRIGHT))
    canvas.ellipse(x0 - 0.36, 2.1, 0.12, 0.18, DOOR_LAMP)


def paint_shop(
    canvas: Canvas, rng: np.random.Generator, style: FacadeStyle, height_m: float
) -> None:
    """A shop along the whole ground floor: sign, show windows with goods, glass door."""
    wood = pick(rng, BRIGHT + DOORS)
    canvas.rectangle(0.25, 0, canvas.width_m - 0.25, height_m - 0.1, wood)
    paint_sign(canvas, rng, (0.3, height_m - 0.85, canvas.width_m - 0.3, height_m - 0.15))
    count = max(2, round(canvas.width_m / rng.uniform(1.4, 2.6)))
    edges = np.linspace(0.4, canvas.width_m - 0.4, count + 1)
    door = int(rng.integers(count))
    for index in range(count):
        x0, x1 = edges[index] + 0.08, edges[index + 1] - 0.08
        low = 0.12 if index == door else 0.55
        paint_glass(canvas, rng, (x0, low, x1, height_m - 1.0))
        if index == door:
            canvas.rectangle(x0 + 0.1, 1.0, x0 + 0.18, 1.3, (230, 220, 200))
        else:
            paint_goods(canvas, rng, (x0, low, x1, height_m - 1.0))
    canvas.shade(0.25, height_m - 1.15, canvas.width_m - 0.25, height_m - 0.85, 1.0, 0.6)


def paint_goods(
    canvas: Canvas, rng: np.random.Generator, box_m: tuple[float, float, float, float]
) -> None:
    """Coloured things behind the show window, and sometimes a poster."""
    x0, z0, x1, z1 = box_m
    for x in np.arange(x0 + 0.1, x1 - 0.3, rng.uniform(0.25, 0.5)):
        canvas.rectangle(x, z0, x + 0.2, z0 + rng.uniform(0.15, 0.7), pick(rng, BRIGHT, 40))
    if rng.random() < 0.4:
        left = rng.uniform(x0, max(x0, x1 - 0.5))
        canvas.rectangle(left, z1 - 0.8, left + 0.45, z1 - 0.2, pick(rng, BRIGHT, 40))


def paint_garage(
    canvas: Canvas, rng: np.random.Generator, style: FacadeStyle, height_m: float
) -> None:
    """One or two roller doors."""
    width = min(2.6, canvas.width_m / 2 - 0.5)
    for x0 in np.arange(0.5, canvas.width_m - width, width + rng.uniform(0.5, 1.5)):
        colour = pick(rng, [*DOORS, (190, 190, 186), (210, 200, 170)])
        canvas.rectangle(x0 - 0.1, 0, x0 + width + 0.1, 2.5, shaded(style.trim, 0.8))
        canvas.rectangle(x0, 0, x0 + width, 2.4, colour)
        for z in np.arange(0.1, 2.3, 0.2):
            canvas.rectangle(x0, z, x0 + width, z + 0.05, shaded(colour, 0.65))
        canvas.shade(x0, 2.1, x0 + width, 2.4, 1.0, 0.5)
    paint_glyphs(canvas, rng, (0.6, 2.55, min(3.5, canvas.width_m), 2.95), (40, 40, 44))


def window_columns(width_m: float, style: FacadeStyle) -> list[float]:
    """Left edges of the windows of a storey, spread evenly over the width."""
    pitch = style.window_width_m + style.window_gap_m
    count = int((width_m - 0.4) // pitch)
    margin = (width_m - count * pitch + style.window_gap_m) / 2
    return [margin + index * pitch for index in range(count)]


def paint_ground_floor(
    canvas: Canvas, rng: np.random.Generator, style: FacadeStyle, height_m: float
) -> None:
    """Shop, garages, or a door among windows."""
    use = rng.random()
    if use < 0.42:
        paint_shop(canvas, rng, style, height_m)
    elif use < 0.55:
        paint_garage(canvas, rng, style, height_m)
    else:
        if rng.random() < 0.4:
            material, colour = wall_material(rng)
            paint_material(canvas, rng, (0, 0, canvas.width_m, height_m), material, colour)
        columns = window_columns(canvas.width_m, style)
        door = int(rng.integers(len(columns))) if columns else -1
        for index, x0 in enumerate(columns):
            x1 = x0 + style.window_width_m
            if index == door:
                paint_door(canvas, rng, (x0 + x1) / 2, style)
            else:
                paint_window(canvas, rng, style, (x0, 0.9, x1, 0.9 + style.window_height_m))


def paint_storey(
    canvas: Canvas, rng: np.random.Generator, style: FacadeStyle, base_m: float
) -> None:
    """One upper storey: a row of windows over a string course."""
    canvas.rectangle(0, base_m, canvas.width_m, base_m + 0.12, shaded(style.trim, 0.95))
    canvas.shade(0, base_m - 0.15, canvas.width_m, base_m, 1.0, 0.6)
    sill = base_m + 0.85
    top = min(sill + style.window_height_m, canvas.height_m - 0.5)
    for x0 in window_columns(canvas.width_m, style):
        if top > sill + 0.5 and rng.random() < 0.96:
            paint_window(canvas, rng, style, (x0, sill, x0 + style.window_width_m, top))


def paint_glass_wall(canvas: Canvas, rng: np.random.Generator, base_m: float) -> None:
    """A curtain wall of tinted panes from `base_m` to the top."""
    tint = pick(rng, [(84, 128, 150), (92, 118, 108), (120, 130, 142)])
    view = canvas.region(0, base_m, canvas.width_m, canvas.height_m)
    unit = (rng.uniform(0.9, 1.8) * PIXELS_PER_M, rng.uniform(0.8, 1.6) * PIXELS_PER_M)
    view[:] = courses(
        rng, view.shape[:2], unit, tint, variation=24, joint=0.4, joint_px=2.5, stagger=0.0
    )
    canvas.shade(0, base_m, canvas.width_m, canvas.height_m, 0.75, 1.3)


def paint_wear(canvas: Canvas, rng: np.random.Generator) -> None:
    """Dirt near the ground, a drain pipe, posters, graffiti, an air conditioner."""
    canvas.shade(0, 0, canvas.width_m, 0.7, 0.62, 1.0)
    if rng.random() < 0.5:
        x = float(rng.choice([0.15, canvas.width_m - 0.27]))
        iron = pick(rng, [(96, 92, 88), (150, 110, 80)])
        canvas.rectangle(x, 0, x + 0.12, canvas.height_m, iron)
        canvas.rectangle(x + 0.08, 0, x + 0.12, canvas.height_m, (60, 58, 56))
    for _ in range(int(rng.integers(0, 3))):
        x, z = rng.uniform(0.2, max(0.3, canvas.width_m - 1.2)), rng.uniform(0.5, 1.2)
        paint_poster(canvas, rng, (x, z, x + rng.uniform(0.4, 0.9), z + rng.uniform(0.6, 1.1)))
    if rng.random() < 0.3:
        paint_graffiti(canvas, rng)


def paint_poster(
    canvas: Canvas, rng: np.random.Generator, box_m: tuple[float, float, float, float]
) -> None:
    """A poster: ground, a shape, two lines of glyphs."""
    x0, z0, x1, z1 = box_m
    canvas.rectangle(x0, z0, x1, z1, pick(rng, BRIGHT, 30))
    middle, size = (x0 + x1) / 2, (x1 - x0) * 0.3
    canvas.ellipse(middle, z0 + (z1 - z0) * 0.62, size, size, pick(rng, BRIGHT, 30))
    paint_glyphs(canvas, rng, (x0, z0 + 0.05, x1, z0 + 0.3), (30, 30, 34))


def paint_graffiti(canvas: Canvas, rng: np.random.Generator) -> None:
    """A bold tag on the lower wall."""
    x0 = rng.uniform(0, max(0.1, canvas.width_m - 3))
    colour = pick(rng, BRIGHT, 30)
    box = (x0, 0.4, min(x0 + rng.uniform(1.5, 3.5), canvas.width_m), rng.uniform(1.2, 1.9))
    paint_glyphs(canvas, rng, box, colour)


def paint_top(canvas: Canvas, rng: np.random.Generator, style: FacadeStyle) -> None:
    """The cornice with its shadow, sometimes with teeth."""
    top = canvas.height_m
    canvas.rectangle(0, top - 0.35, canvas.width_m, top, shaded(style.trim, 1.05))
    canvas.shade(0, top - 0.75, canvas.width_m, top - 0.35, 1.0, 0.5)
    if rng.random() < 0.5:
        for x in np.arange(0.1, canvas.width_m, 0.5):
            canvas.rectangle(x, top - 0.35, x + 0.2, top - 0.18, shaded(style.trim, 0.6))


def paint_front(
    rng: np.random.Generator, style: FacadeStyle, width_m: float, height_m: float
) -> Picture:
    """The street front of a house, (height, width, 3) at `PIXELS_PER_M`."""
    canvas = Canvas(width_m, height_m, PIXELS_PER_M)
    paint_material(canvas, rng, (0, 0, width_m, height_m), style.material, style.colour)
    ground_m = min(style.storey_m + 0.4, height_m - 0.3)
    if style.glass_wall:
        paint_glass_wall(canvas, rng, ground_m)
    else:
        for base in np.arange(ground_m, height_m - 2.0, style.storey_m):
            paint_storey(canvas, rng, style, float(base))
    paint_ground_floor(canvas, rng, style, ground_m)
    paint_wear(canvas, rng)
    paint_top(canvas, rng, style)
    return canvas.pixels


def paint_side(
    rng: np.random.Generator, style: FacadeStyle, width_m: float, height_m: float
) -> Picture:
    """A side wall: bare material, few windows, sometimes a mural or an old advertisement."""
    canvas = Canvas(width_m, height_m, PIXELS_PER_M)
    material = style.material if rng.random() < 0.6 else brick
    paint_material(canvas, rng, (0, 0, width_m, height_m), material, style.colour)
    if rng.random() < 0.35:
        paint_mural(canvas, rng)
    for x0 in window_columns(width_m, style):
        for base in np.arange(0.0, height_m - 2.5, style.storey_m):
            if rng.random() < 0.3:
                box = (x0, base + 1.0, x0 + style.window_width_m, base + 2.2)
                paint_window(canvas, rng, style, box)
    paint_wear(canvas, rng)
    canvas.rectangle(0, height_m - 0.2, width_m, height_m, shaded(style.trim, 0.9))
    return canvas.pixels


def paint_mural(canvas: Canvas, rng: np.random.Generator) -> None:
    """Large faded shapes and a word, as on old fire walls."""
    x1, z1 = canvas.width_m, canvas.height_m
    for _ in range(int(rng.integers(3, 8))):
        x, z = rng.uniform(0, x1), rng.uniform(1.0, z1)
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        radius = rng.uniform(0.5, 2.2)
        corners = [(x + radius * np.cos(a), z + radius * np.sin(a)) for a in angles]
        canvas.polygon(corners, pick(rng, BRIGHT, 40))
    z = rng.uniform(2.0, max(2.1, z1 - 2.0))
    paint_glyphs(canvas, rng, (0.3, z, x1 - 0.3, z + 1.3), pick(rng, BRIGHT, 20))


def paint_roof(rng: np.random.Generator, width_m: float, height_m: float) -> Picture:
    """Tiles with roof lights."""
    canvas = Canvas(width_m, height_m, PIXELS_PER_M / 2)
    colour = pick(rng, [(140, 66, 48), (84, 82, 86), (108, 74, 62), (72, 92, 88)])
    paint_material(canvas, rng, (0, 0, width_m, height_m), roof_tiles, colour)
    for x in np.arange(rng.uniform(0.5, 2.0), width_m - 1.0, rng.uniform(2.0, 4.0)):
        canvas.rectangle(x, 0.4, x + 0.8, min(1.5, height_m - 0.3), (60, 60, 64))
        canvas.rectangle(x + 0.08, 0.48, x + 0.72, min(1.42, height_m - 0.38), (150, 172, 190))
    canvas.rectangle(0, height_m - 0.15, width_m, height_m, shaded(colour, 0.7))
    return canvas.pixels


def paint_awning(rng: np.random.Generator, width_m: float, height_m: float) -> Picture:
    """Striped cloth."""
    canvas = Canvas(width_m, height_m, PIXELS_PER_M)
    first, second = (BRIGHT[i] for i in rng.permutation(len(BRIGHT))[:2])
    canvas.rectangle(0, 0, width_m, height_m, first)
    stripe = rng.uniform(0.2, 0.5)
    for x in np.arange(0, width_m, 2 * stripe):
        canvas.rectangle(x, 0, x + stripe, height_m, second)
    canvas.shade(0, 0, width_m, height_m, 0.7, 1.1)
    return canvas.pixels


def paint_sign_board(rng: np.random.Generator, width_m: float, height_m: float) -> Picture:
    """A sign that stands out from the wall."""
    canvas = Canvas(width_m, height_m, PIXELS_PER_M * 2)
    paint_sign(canvas, rng, (0, 0, width_m, height_m))
    return canvas.pixels


def paint_van(
    rng: np.random.Generator, width_m: float, height_m: float, colour: Colour, *, is_flank: bool
) -> Picture:
    """A van seen from its side, or from its end."""
    canvas = Canvas(width_m, height_m, PIXELS_PER_M)
    canvas.rectangle(0, 0, width_m, height_m, shaded(colour, 0.9))
    canvas.rectangle(0, 0, width_m, 0.28, (24, 24, 26))
    canvas.shade(0, 0.28, width_m, 0.9, 0.7, 1.0)
    canvas.rectangle(0, 0.85, width_m, 0.9, shaded(colour, 0.55))
    right = rng.uniform(0.35, 0.95) * width_m if is_flank else width_m - 0.15
    canvas.rectangle(0.15, height_m * 0.55, right, height_m - 0.22, (52, 64, 74))
    canvas.shade(0.15, height_m * 0.55, right, height_m - 0.22, 0.8, 1.6)
    if is_flank:
        for x in (0.85, width_m - 0.9):
            canvas.ellipse(x, 0.34, 0.36, 0.34, (22, 22, 24))
            canvas.ellipse(x, 0.34, 0.18, 0.17, (150, 150, 152))
        paint_glyphs(canvas, rng, (width_m * 0.3, 0.9, width_m * 0.8, 1.2), pick(rng, BRIGHT))
    else:
        for x in (0.12, width_m - 0.36):
            canvas.rectangle(x, 0.6, x + 0.24, 0.85, TAIL_LAMP)
        canvas.rectangle(width_m / 2 - 0.3, 0.42, width_m / 2 + 0.3, 0.55, (236, 236, 230))
    return canvas.pixels
