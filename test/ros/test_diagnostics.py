from collections import Counter

import pytest
import tiny_checkpoints
from live import place

from selavpr_ros.decision.gates import ORDER
from selavpr_ros.models import load_model
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.ros.diagnostics import (
    CAMERA_INFO,
    DEPTH,
    ERROR,
    ODOMETRY,
    OK,
    WARN,
    Publisher,
    Subscribed,
    input_status,
    map_status,
    matching_status,
    model_status,
    time_status,
    unconfigured_status,
)
from selavpr_ros.ros.statistics import Failures, Snapshot
from selavpr_ros.settings import make_settings

NAN = float('nan')
IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'
GOOD = Subscribed('/image', IMAGE, 'best_effort', [Publisher(IMAGE, 'reliable')])
ODOM = Subscribed(
    '/odom', ODOMETRY_TYPE, 'best_effort', [Publisher(ODOMETRY_TYPE, 'reliable')], ODOMETRY)


def snapshot(**changes):
    fine = {
        'now_s': 100.0, 'counts': Counter(received=5, processed=5), 'verdicts': Counter(),
        'failures': {}, 'seconds_since_image': 0.1, 'seconds_since_accept': NAN,
        'image_age_s': 0.02, 'image_rate': 10.0, 'latency_p50_ms': 20.0, 'latency_p95_ms': 30.0,
        'age_p95_ms': 50.0, 'keyframe_p95_ms': 5.0}
    return Snapshot(**{**fine, **changes})


def values(status):
    return {pair.key: pair.value for pair in status.values}


@pytest.mark.parametrize(('topic', 'words'), [
    (GOOD, ''),
    (Subscribed('/image', IMAGE, 'reliable', []), '/image has no publisher'),
    (Subscribed('/image', IMAGE, 'reliable', [Publisher('x/msg/Y', 'reliable')]),
     '/image carries x/msg/Y, but sensor_msgs/msg/Image is subscribed'),
    (Subscribed('/image', IMAGE, 'reliable', [Publisher(IMAGE, 'best_effort')]),
     'published best effort, but subscribed reliable: set parameter qos.image_reliability'),
    (Subscribed('/image', IMAGE, 'best_effort', [Publisher(IMAGE, 'best_effort')]), ''),
])
def test_why_nothing_arrives(topic, words):
    assert words in topic.mismatch
    assert bool(words) == bool(topic.mismatch)


def carrying(came, wanted, topic='/t', **role):
    return Subscribed(topic, wanted, 'best_effort', [Publisher(came, 'reliable')], **role)


@pytest.mark.parametrize(('topic', 'advice'), [
    (carrying(COMPRESSED, IMAGE, '/c/image/compressed'),
     'set parameter image_transport to compressed, and remap image to /c/image'),
    (carrying(COMPRESSED, IMAGE, '/c/jpeg'),
     'set parameter image_transport to compressed, and remap /c/jpeg/compressed to /c/jpeg'),
    (carrying(IMAGE, COMPRESSED, '/c/image/compressed'),
     'set parameter image_transport to raw, and remap image to /c/image/compressed'),
    (carrying('nav_msgs/msg/Odometry', IMAGE), "remap image to the camera's images"),
    (carrying('geometry_msgs/msg/PoseStamped', ODOMETRY_TYPE, name=ODOMETRY),
     'remap odom to a topic of nav_msgs/msg/Odometry, or set parameter pose_source to none'),
    (carrying(IMAGE, 'sensor_msgs/msg/CameraInfo', name=CAMERA_INFO, is_needed=False),
     'remap camera_info to the sensor_msgs/msg/CameraInfo of the images'),
    (carrying('sensor_msgs/msg/PointCloud2', IMAGE, name=DEPTH), 'remap depth to raw depth'),
    (carrying(COMPRESSED, IMAGE, name=DEPTH), 'remap depth to raw depth'),
])
def test_another_type_is_told_with_what_to_do(topic, advice):
    came = topic.publishers[0].topic_type
    assert f'/{topic.topic[1:]} carries {came}, but {topic.topic_type} is subscribed: ' in (
        topic.mismatch)
    assert advice in topic.mismatch
    assert topic.name in ('image', DEPTH) or 'image_transport' not in topic.mismatch
    status = input_status(snapshot(), [GOOD, topic], 0, 3.0)
    assert (status.level, status.message) == (WARN, topic.mismatch)


def test_only_what_is_needed_has_to_be_published():
    optional = Subscribed('/i', 'x', 'best_effort', [], CAMERA_INFO, is_needed=False)
    assert input_status(snapshot(), [GOOD, optional], 0, 3.0).level == OK
    missing = Subscribed('/odom', ODOMETRY_TYPE, 'best_effort', [], ODOMETRY)
    assert missing.mismatch.startswith('/odom has no publisher: remap odom to a topic of nav_msgs')


def test_best_effort_odometry_names_its_own_parameter():
    topic = Subscribed('/odom', 'x', 'reliable', [Publisher('x', 'best_effort')], ODOMETRY)
    assert 'set parameter qos_overrides./odom.subscription.reliability' in topic.mismatch


def test_two_nodes_of_one_name_are_an_error():
    told = unconfigured_status('', '/vpr', 2)
    assert told.level == ERROR
    assert told.message.startswith('2 nodes are called /vpr, so that their topics')
    status = model_status(load_model('hog'), snapshot(), 100.0, '/vpr', 2)
    assert (status.level, f'{status.message}; not configured') == (ERROR, told.message)


def test_images_that_arrive_are_fine():
    status = input_status(snapshot(), [GOOD], 0, 3.0)
    assert (status.name, status.level, status.message) == ('vpr: Input', OK, '5 images')
    assert values(status)['image topic'] == '/image (sensor_msgs/msg/Image, 1 publisher)'
    assert values(status)['image publishers'] == 'sensor_msgs/msg/Image reliable'


@pytest.mark.parametrize(('seconds', 'level'), [(2.9, OK), (3.1, WARN), (31.0, ERROR)])
def test_a_gap_is_a_warning_and_then_an_error(seconds, level):
    assert input_status(
        snapshot(seconds_since_image=seconds), [GOOD], 0, 3.0).level == level


def test_errors_stay_listed_and_are_news_for_a_while():
    for last_s, level in ((95.0, WARN), (50.0, OK)):
        failures = {'bad image': Failures(4, 'empty image', last_s, last_s)}
        status = input_status(snapshot(failures=failures), [GOOD], 0, 3.0)
        assert status.level == level
        assert values(status)['bad image: count'] == '4'
        assert values(status)['bad image: last'] == 'empty image'


def test_all_findings_are_told_the_worst_first():
    failures = {kind: Failures(1, text, 99.0, 99.0) for kind, text in (
        ('bad image', 'empty image'), ('stamp out of order', 'it is old'))}
    image = Subscribed('/image', IMAGE, 'best_effort', [])
    status = input_status(
        snapshot(failures=failures, seconds_since_image=31.0), [image], 0, 3.0)
    assert status.level == ERROR
    assert status.message == (
        "no image for 31.0 s; /image has no publisher: remap image to the camera's images; "
        'bad image: empty image; stamp out of order: it is old')


def test_before_the_first_image():
    status = input_status(
        snapshot(counts=Counter(), seconds_since_image=NAN), [GOOD, ODOM], 3, 3.0)
    assert (status.level, status.message) == (WARN, 'no image yet on /image')
    assert values(status)['odometry received'] == '3'


@pytest.fixture(scope='module')
def model():
    return load_model('hog')


def test_the_model_is_named_and_its_speed_watched(model):
    status = model_status(model, snapshot(), 100.0)
    assert (status.level, values(status)['precision']) == (OK, 'fp32')
    assert status.message == f'{model.model_id} on cpu'
    assert model_status(model, snapshot(), 25.0).level == WARN
    bug = {'internal error': Failures(1, 'KeyError: 1', 0.0, 0.0)}
    assert model_status(model, snapshot(failures=bug), 100.0).level == ERROR


def test_a_full_map_is_told(model):
    recognizer = PlaceRecognizer(model, make_settings({'map.max_keyframes': 1}))
    assert map_status(recognizer, snapshot()).level == OK
    recognizer.recognize(place(1), 1)
    status = map_status(recognizer, snapshot())
    assert (status.level, status.message) == (WARN, 'full: 1 keyframes, map.max_keyframes is 1')


def test_why_there_is_no_loop_closure(model):
    seen = snapshot(verdicts=Counter(REJECT_UNSURE=3, NO_CANDIDATES=2))
    status = matching_status(PlaceRecognizer(model), seen)
    counted = {key.partition(':')[0]: value for key, value in values(status).items()}
    assert (counted['REJECT_UNSURE'], counted['NO_CANDIDATES']) == ('3', '2')
    assert (counted['ACCEPTED'], counted['REJECT_GEOMETRY']) == ('0', '0')
    assert counted['queries that unrelated images were learned from'] == '0'
    assert counted['re-ranking'] == 'mutual matches of local features'
    assert counted['geometry'] == 'fundamental'


def test_every_gate_has_a_count(model):
    verdicts = Counter({gate.name: number for number, gate in enumerate(ORDER, start=11)})
    status = matching_status(PlaceRecognizer(model), snapshot(verdicts=verdicts))
    counted = {key.partition(':')[0]: value for key, value in values(status).items()}
    assert {name: counted[name] for name in verdicts} == {
        name: str(number) for name, number in verdicts.items()}


def test_a_model_without_local_features_says_so():
    status = matching_status(PlaceRecognizer(tiny_checkpoints.make('salad')), snapshot())
    assert status.level == OK
    assert values(status)['re-ranking'] == 'salad has no local features'


@pytest.mark.parametrize(('age_s', 'sim_time', 'now_ns', 'level', 'words'), [
    (0.1, False, 1, OK, 'stamps fit the clock'),
    (1e8, False, 1, WARN, 'a recording that is played needs use_sim_time'),
    (-5.0, False, 1, WARN, 'image stamps are -5.0 s behind'),
    (NAN, False, 1, OK, ''),
    (NAN, True, 0, ERROR, '/clock has no publisher'),
    (0.1, True, 5, OK, ''),
])
def test_clocks(age_s, sim_time, now_ns, level, words):
    status = time_status(snapshot(image_age_s=age_s), 1, 0, now_ns, sim_time)
    assert status.level == level
    assert words in status.message


def test_images_without_stamps_are_not_a_recording():
    status = time_status(snapshot(image_age_s=1.8e9, image_stamp_ns=0), 1, 0, 1, False)
    assert (status.level, status.message) == (
        WARN, 'image stamps are 0: the driver sets no stamps')


def test_a_node_without_a_model():
    assert unconfigured_status('').level == WARN
    assert unconfigured_status('no such file').message == 'no such file'
