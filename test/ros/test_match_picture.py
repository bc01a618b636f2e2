"""The drawing alone: what is where, in which colour and in which proportion."""

import math

import numpy as np
import pytest

from selavpr_ros.decision.gates import Candidate, Decision
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId
from selavpr_ros.matching.evidence import Match
from selavpr_ros.matching.geometry import Geometry
from selavpr_ros.matching.mutual import LocalMatches
from selavpr_ros.ros.match_picture import (
    DARK,
    FACTS,
    GREEN,
    GREY,
    HEAD_HEIGHT,
    LIGHT,
    LINE_SHARE,
    MARKER_SIZE,
    RED,
    choose,
    choose_lines,
    describe,
    draw,
)

QUERY = np.full((240, 320, 3), 10, np.uint8)
MATCH = np.full((120, 160, 3), 100, np.uint8)
# Corners and the middle, as shares of width and height.
POSITIONS = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75], [0.5, 0.5]])


def candidate(
    pairs=(), inliers=None, decision=Decision.ACCEPTED, similarity=None, number=23,
    probability=0.97531, **evidence
):
    """Matches pairs of POSITIONS, the first ones the strongest."""
    if similarity is None:
        similarity = np.linspace(1.0, 0.5, len(pairs))
    local = LocalMatches(np.array(pairs, np.int64).reshape(-1, 2), np.array(similarity))
    geometry = None if inliers is None else Geometry('homography', np.array(inliers, bool), 1.0)
    keyframe = Keyframe(KeyframeId(2, number), 0, np.zeros(4, np.float32), None, 0.0)
    match = Match(keyframe, 0, 0.912, len(local), len(local) / 10, pairs=local,
                  geometry=geometry, **evidence)
    return Candidate(match, decision, probability, 12.5)


def show(found, match_image=MATCH, most_lines=100, max_width=1280):
    return draw(QUERY, match_image, found, POSITIONS, max_width, most_lines)


def is_line(pixel, colour, background):
    """Whether the pixel is on the way from the background to a line's colour, far enough."""
    way = np.subtract(colour, background, dtype=float)
    moved = pixel.astype(float) - background
    share = moved @ way / (way @ way)
    return 0.7 * LINE_SHARE < share < 1.1 * LINE_SHARE and np.abs(moved - share * way).max() < 12


def crossing(picture, row, left, right, colour, background):
    """Share of the pixels of a row that are part of a line."""
    pixels = picture[HEAD_HEIGHT + row, left:right]
    return np.mean([is_line(pixel, colour, background) for pixel in pixels])


@pytest.mark.parametrize(('inliers', 'colour', 'drawn'), [
    ([True], GREEN, (1.0, 1.0)), ([False], RED, (0.4, 0.7)), (None, LIGHT, (1.0, 1.0))])
def test_a_line_goes_from_feature_to_feature_in_its_colour(inliers, colour, drawn):
    picture = show(candidate([(0, 1)], inliers))  # a quarter from the top in both
    assert (picture.shape, picture.dtype) == ((HEAD_HEIGHT + 240 + 2 * 44, 640, 3), np.uint8)
    start, end, edge = 80, 320 + 240, MARKER_SIZE  # where markers lie over the line
    assert drawn[0] <= crossing(picture, 60, start + edge, 319, colour, 10) <= drawn[1]
    assert drawn[0] <= crossing(picture, 60, 321, end - edge, colour, 100) <= drawn[1]
    # Nothing beyond its ends, nor above and below it.
    body = picture[HEAD_HEIGHT : HEAD_HEIGHT + 240]
    assert np.all(body[:, : start - edge] == 10)
    assert np.all(body[:, end + edge :] == 100)
    assert np.all(body[: 60 - edge, :319] == 10)
    assert np.all(body[60 + edge :, 321:] == 100)


def test_a_line_may_go_down():
    picture = show(candidate([(0, 3)], [True]))  # (80, 60) -> (320 + 240, 180)
    for share in (0.2, 0.4, 0.6, 0.8):
        x, y = round(80 + share * 480), round(60 + share * 120)
        column = picture[HEAD_HEIGHT + y - 1 : HEAD_HEIGHT + y + 2, x]
        background = 10 if x < 320 else 100
        assert any(pixel[1] > background + 60 for pixel in column)


def test_markers_tell_inliers_from_others_without_colours():
    middle = (slice(HEAD_HEIGHT + 58, HEAD_HEIGHT + 63), slice(78, 83))
    square = show(candidate([(0, 1)], [True]))[middle]
    cross = show(candidate([(0, 1)], [False]))[middle]
    assert not np.array_equal(square[:, :, 1] > 60, cross[:, :, 0] > 60)


def test_inliers_lie_on_top():
    pairs = [(0, 1), (2, 3), (0, 1)]
    picture = show(candidate(pairs, [True, False, False]))
    assert crossing(picture, 60, 90, 310, GREEN, 10) == 1.0
    assert crossing(picture, 180, 90, 310, RED, 10) > 0.4


def test_no_more_lines_than_wanted_and_the_strongest():
    weak_first = candidate([(0, 1), (2, 3)], [True, True], similarity=[0.5, 0.9])
    picture = show(weak_first, most_lines=1)
    assert crossing(picture, 180, 90, 310, GREEN, 10) == 1.0
    assert crossing(picture, 60, 90, 310, GREEN, 10) == 0.0
    assert np.all(show(weak_first, most_lines=0)[HEAD_HEIGHT : HEAD_HEIGHT + 240, :319] == 10)


def test_the_lines_are_the_strongest_in_true_proportion():
    similarity = np.arange(100, dtype=np.float32)  # the last ones are the strongest
    inliers = np.arange(100) < 70
    shown = choose_lines(similarity, inliers, 10)
    assert shown.tolist() == [99, 98, 97, 69, 68, 67, 66, 65, 64, 63]
    assert sorted(choose_lines(similarity, inliers, 100)) == list(range(100))
    assert len(choose_lines(similarity, inliers, 5000)) == 100
    assert choose_lines(similarity, None, 2).tolist() == [99, 98]
    nothing = np.empty(0, np.float32)
    assert len(choose_lines(nothing, np.empty(0, bool), 10)) == 0
    assert len(choose_lines(similarity, np.zeros(100, bool), 10)) == 10


def test_the_candidate_is_the_one_that_came_farthest():
    new = candidate(decision=Decision.REJECT_NEW_PLACE, number=1)
    unsure = candidate(decision=Decision.REJECT_UNSURE, number=2)
    shadow = candidate(decision=Decision.REJECT_DUPLICATE, number=3)
    accepted = candidate(number=4)
    later = candidate(decision=Decision.REJECT_NEW_PLACE, number=5)
    assert choose([new, unsure, shadow]) is unsure
    assert choose([new, shadow, accepted]) is accepted
    assert choose([new, later]) is new
    assert choose([]) is None


def test_the_evidence_as_text():
    found = describe(candidate([(0, 1), (2, 3)], [True, False], overlap=0.25))
    assert found == {
        'similarity': '0.912', 'mutual matches': '2 (20%)', 'overlap': '0.250',
        'inliers': '1 (50%)', 'this view': '12 x', 'probability': '0.975'}
    assert tuple(found) == FACTS


def test_what_is_not_known_is_said():
    match = Match(candidate().match.keyframe, 0, 0.5, 0, math.nan)
    found = describe(Candidate(match, Decision.REJECT_NEW_PLACE, 0.25, 0.3))
    assert found == {
        'similarity': '0.500', 'mutual matches': 'not compared', 'overlap': 'not known',
        'inliers': 'not computed', 'this view': '0.3 x', 'probability': '0.250'}


def written(picture, area):
    """Whether there is light text on what is dark."""
    return bool(np.any(picture[area] > 150))


HEAD_LEFT, HEAD_RIGHT = np.s_[:HEAD_HEIGHT, :320], np.s_[:HEAD_HEIGHT, 320:]
BELOW = HEAD_HEIGHT + 240


def test_the_texts_are_drawn_where_no_picture_is():
    accepted, rejected = show(candidate()), show(candidate(decision=Decision.REJECT_UNSURE))
    assert written(accepted, HEAD_LEFT)
    assert written(accepted, HEAD_RIGHT)
    for row in range(2):
        for column in range(4 if row == 0 else 2):
            cell = np.s_[BELOW + 44 * row : BELOW + 44 * (row + 1),
                         160 * column : 160 * (column + 1)]
            assert written(accepted, cell)
    # Accepted is green, anything else is not.
    assert np.any(np.all(accepted[HEAD_LEFT] == GREEN, axis=-1))
    assert not np.any(np.all(rejected[HEAD_LEFT] == GREEN, axis=-1))
    other = show(candidate(number=24))
    assert not np.array_equal(accepted[HEAD_RIGHT], other[HEAD_RIGHT])
    assert np.array_equal(accepted[HEAD_LEFT], other[HEAD_LEFT])


def test_without_candidates_there_is_the_query_alone():
    picture = show(None, None)
    assert picture.shape == show(candidate([(0, 1)])).shape
    assert np.all(picture[HEAD_HEIGHT:BELOW, :319] == 10)
    panel = picture[HEAD_HEIGHT:BELOW, 321:]
    assert np.all(panel[0] == GREY)
    assert written(panel, np.s_[100:140])
    assert written(picture, HEAD_LEFT)
    assert not written(picture, HEAD_RIGHT)


def test_a_missing_thumbnail_is_said_and_the_evidence_stays():
    picture = show(candidate([(0, 1)], [True]), None)
    panel = picture[HEAD_HEIGHT:BELOW, 321:]
    assert np.all(panel[0] == GREY)
    assert written(panel, np.s_[100:140])
    assert crossing(picture, 60, 330, 540, GREEN, GREY[0]) == 1.0
    assert not np.array_equal(panel, show(None, None)[HEAD_HEIGHT:BELOW, 321:])


def test_features_that_are_no_grid_have_no_lines():
    picture = draw(QUERY, MATCH, candidate([(0, 1)], [True]), None, 1280, 100)
    assert np.all(picture[HEAD_HEIGHT:BELOW, :319] == 10)


@pytest.mark.parametrize(('shape', 'max_width', 'size'), [
    ((480, 640), 1280, (HEAD_HEIGHT + 480 + 44, 1280)),
    ((480, 640), 641, (HEAD_HEIGHT + 240 + 88, 640)),
    ((1080, 1920), 1280, (HEAD_HEIGHT + 360 + 44, 1280)),
    ((60, 80), 1280, (HEAD_HEIGHT + 240 + 88, 640)),
    ((5000, 500), 1000, (HEAD_HEIGHT + 1000 + 44, 1000)),
    ((1, 500), 1000, (HEAD_HEIGHT + 1 + 44, 1000))])
def test_its_size_depends_on_the_camera_alone(shape, max_width, size):
    image = np.full((*shape, 3), 200, np.uint8)
    for found, match in ((None, None), (candidate([(0, 1)], [True]), MATCH)):
        picture = draw(image, match, found, POSITIONS, max_width, 100)
        assert picture.shape == (*size, 3)


def test_an_image_of_another_shape_lies_in_the_middle():
    tall = np.full((200, 100, 3), 100, np.uint8)  # in a panel of 320 x 240: 120 x 240
    picture = show(candidate([(0, 0)], [True]), tall)
    panel = picture[HEAD_HEIGHT:BELOW, 320:]
    assert np.all(panel[200, 100:220] == 100)
    assert np.all(panel[200, 2:100] == DARK)
    assert np.all(panel[200, 220:] == DARK)
    # The feature a quarter from the left: the line ends there.
    assert crossing(picture, 60, 320 + 102, 320 + 130 - MARKER_SIZE, GREEN, 100) == 1.0
    assert np.all(panel[60, 130 + MARKER_SIZE : 220] == 100)


def test_the_images_stay_as_they_are():
    query, match = QUERY.copy(), MATCH.copy()
    query.setflags(write=False)
    match.setflags(write=False)
    draw(query, match[:, :, ::-1], candidate([(0, 1)], [True]), POSITIONS, 1280, 100)
