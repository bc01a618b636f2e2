import pytest
from live import LiveNode  # noqa: F401  skips without ROS
from rclpy.parameter import Parameter

from selavpr_ros.errors import SettingError
from selavpr_ros.ros.parameters import change, make_descriptor
from selavpr_ros.settings import SettingInfo, Settings, describe


def test_a_descriptor_tells_description_range_and_when():
    infos = {info.name: info for info in describe()}
    rate = make_descriptor(infos['query.max_rate'])
    assert rate.description == infos['query.max_rate'].description
    assert (rate.floating_point_range[0].from_value,
            rate.floating_point_range[0].to_value) == (0.05, 60.0)
    assert rate.additional_constraints == ''
    top_k = make_descriptor(infos['index.top_k'])
    assert (top_k.integer_range[0].from_value, top_k.integer_range[0].to_value) == (1, 200)
    precision = make_descriptor(infos['model.precision'])
    assert 'One of: auto, fp32' in precision.additional_constraints
    assert 'only while the node is unconfigured' in precision.additional_constraints
    assert not make_descriptor(infos['index.top_k'], with_range=False).integer_range


def test_a_range_may_lack_an_end():
    descriptor = make_descriptor(SettingInfo('way', 1.0, 'Metres.', low=0.0))
    assert descriptor.floating_point_range[0].from_value == 0.0
    assert descriptor.floating_point_range[0].to_value > 1e9
    assert not make_descriptor(SettingInfo('free', 1.0, 'Any.')).floating_point_range


def test_changes_keep_all_other_settings():
    current = change(Settings(), [Parameter('index.top_k', value=7)])
    after = change(current, [Parameter('query.max_rate', value=5), Parameter('other', value=1)])
    assert (after.index.top_k, after.query.max_rate) == (7, 5.0)


@pytest.mark.parametrize(('name', 'value'), [
    ('gates.min_probability', 0.9), ('gates.min_inlier_share', 0.5), ('gates.max_drift', 0.2),
    ('gates.max_vertical_drift', 0.02), ('gates.min_motion', 0.7), ('gates.look_back', 3),
    ('keyframe.max_overlap', 0.6)])
def test_the_gates_change_while_the_node_runs(name, value):
    assert change(Settings(), [Parameter(name, value=value)]).flat()[name] == value


def test_an_unconfigured_node_only_checks():
    assert change(None, [Parameter('model.weights', value='x.pth')]) is None
    with pytest.raises(SettingError, match=r'index\.top_k = 0 is not in \[1, 200\]'):
        change(None, [Parameter('index.top_k', value=0)])


def test_what_is_not_live_stays_as_it_is():
    same = [Parameter('model.weights', value='embedded')]
    assert change(Settings(), same) == Settings()
    with pytest.raises(SettingError, match='deactivate it and clean'):
        change(Settings(), [Parameter('model.weights', value='x.pth')])


def test_a_parameter_cannot_be_deleted():
    with pytest.raises(SettingError, match='should be like'):
        change(Settings(), [Parameter('index.top_k')])
