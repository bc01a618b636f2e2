import cv2
import numpy as np

from selavpr_ros.simulation.atlas import LEVELS, Atlas, at_level, level_for


def lookup(atlas, picture, column, row, level_x, level_y):
    """The atlas at full-resolution pixel coordinates of one picture, at a level."""
    x, _ = at_level(
        np.float32([[atlas.corners_px[picture][0] + column]]), np.float32(level_x), atlas.width
    )
    y, _ = at_level(
        np.float32([[atlas.corners_px[picture][1] + row]]), np.float32(level_y), atlas.height
    )
    return cv2.remap(atlas.image, x, y, cv2.INTER_LINEAR)[0, 0].tolist()


def test_every_level_shows_every_picture_up_to_its_border():
    pictures = [
        np.full((40, 50, 3), (200, 0, 0), np.uint8),
        np.full((90, 30, 3), (0, 200, 0), np.uint8),
        np.full((17, 333, 3), (0, 0, 200), np.uint8),
    ]
    atlas = Atlas.pack(pictures)

    for number, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        for level_x in range(LEVELS):
            for level_y in range(LEVELS):
                for column, row in ((0, 0), (width - 1, height - 1), (width // 2, height // 2)):
                    found = lookup(atlas, number, column, row, level_x, level_y)
                    assert found == picture[0, 0].tolist()


def test_full_resolution_is_exact():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    atlas = Atlas.pack([picture])

    assert lookup(atlas, 0, 7, 11, 0, 0) == picture[11, 7].tolist()


def test_pictures_beyond_one_shelf_do_not_overlap():
    pictures = [np.full((60, 900, 3), shade, np.uint8) for shade in range(10, 250, 20)]
    atlas = Atlas.pack(pictures)

    for number, picture in enumerate(pictures):
        assert lookup(atlas, number, 450, 30, 0, 0) == picture[0, 0].tolist()


def test_level_halves_until_a_texel_is_a_pixel():
    assert level_for(np.float32([0.1, 1.0, 2.0, 4.0, 1000.0])).tolist() == [0, 0, 1, 2, LEVELS - 1]
