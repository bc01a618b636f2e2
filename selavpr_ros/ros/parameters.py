"""The settings as ROS parameters: declared, checked and read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from selavpr_ros.errors import SettingError
from selavpr_ros.settings import AUTOSTART as AUTOSTART  # re-exported: the node reads it
from selavpr_ros.settings import (
    FOREIGN,
    NO_LIMIT,
    SettingInfo,
    Settings,
    Value,
    describe,
    make_settings,
)


def _ranges(info: SettingInfo) -> dict[str, Any]:
    if info.low is None and info.high is None:
        return {}
    low = -NO_LIMIT if info.low is None else info.low
    high = NO_LIMIT if info.high is None else info.high
    if isinstance(info.default, float):
        limits = FloatingPointRange(from_value=float(low), to_value=float(high))
        return {'floating_point_range': [limits]}
    limits = IntegerRange(from_value=int(low), to_value=int(high))
    return {'integer_range': [limits]}


def _constraints(info: SettingInfo) -> str:
    one_of = f'One of: {", ".join(info.choices)}. ' if info.choices else ''
    return one_of + ('' if info.live else 'Can be set only while the node is unconfigured.')


def make_descriptor(info: SettingInfo, *, with_range: bool = True) -> ParameterDescriptor:
    """Description, range and constraints of a setting.

    Types are checked by `SettingInfo.check`, not by rclpy: `2` may stand for `2.0`. `read_only`
    is never set: it would forbid a new value even to an unconfigured node.
    """
    return ParameterDescriptor(
        name=info.name, description=info.description, additional_constraints=_constraints(info),
        dynamic_typing=True, **(_ranges(info) if with_range else {}))


def _refusal(info: SettingInfo, value: Any) -> str:
    """Why a value is not allowed; empty if it is."""
    try:
        info.check(value)
    except SettingError as error:
        return str(error)
    return ''


def _plain(value: Value) -> Any:
    return list(value) if isinstance(value, tuple) else value


def declare(node: Node) -> list[str]:
    """Declare all settings on a node made with automatically_declare_parameters_from_overrides.

    A value out of its range is declared without that range, since rclpy would refuse to make the
    node; `read` then says what is wrong, and the user can set another value.

    Returns:
        Names that the user gave, but that are not settings.
    """
    infos = [AUTOSTART, *describe()]
    for info in infos:
        value = _plain(info.default)
        if node.has_parameter(info.name):
            value = node.get_parameter(info.name).value
            node.undeclare_parameter(info.name)
        descriptor = make_descriptor(info, with_range=not _refusal(info, value))
        node.declare_parameter(info.name, value, descriptor, ignore_override=True)
    names = {info.name for info in infos}
    return [name for name in node.get_parameters_by_prefix('')
            if name not in names and name.partition('.')[0] not in FOREIGN]


def read(node: Node) -> Settings:
    """Settings from the node's parameters.

    Raises:
        SettingError: a value is of the wrong type or out of range.
    """
    return make_settings({info.name: node.get_parameter(info.name).value for info in describe()})


def tighten(node: Node) -> None:
    """Give every parameter its range; all values have to be inside."""
    for info in describe():
        node.set_descriptor(info.name, make_descriptor(info))


def change(current: Settings | None, parameters: Iterable[Parameter]) -> Settings | None:
    """Check new values against the settings in force (None: the node is unconfigured).

    Returns:
        The new settings, or None while unconfigured.

    Raises:
        SettingError: a value is wrong, or cannot change while the node is configured.
    """
    infos = {info.name: info for info in describe()}
    values = {p.name: p.value for p in parameters if p.name in infos}
    for name, value in values.items():
        value = infos[name].check(value)
        if current and not infos[name].live and value != current.flat()[name]:
            raise SettingError(
                f'{name} can be set only while the node is unconfigured: deactivate it and clean '
                'it up first (ros2 lifecycle set ... deactivate, then cleanup)')
    return make_settings({**current.flat(), **values}) if current else None
