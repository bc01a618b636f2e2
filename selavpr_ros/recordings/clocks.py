"""Why no image has a pose: two clocks, and what usually sets them apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SECOND_NS = 1_000_000_000
# Stamps below are no dates, but count from the start of a program, a machine or a recording.
LEAST_DATE_NS = 365 * 24 * 3600 * SECOND_NS
HALF_HOUR_NS = 1800 * SECOND_NS
MOST_ZONE_NS = 14 * 3600 * SECOND_NS
ZONE_SLACK_NS = 60 * SECOND_NS
# Number of stamps a second, where they are not in seconds.
UNITS = {1_000_000_000: 'nanoseconds', 1_000_000: 'microseconds', 1000: 'milliseconds'}


@dataclass(frozen=True)
class Span:
    """From the first to the last of some stamps in ns; `str` says it in seconds."""

    first_ns: int
    last_ns: int

    @classmethod
    def of(cls, stamps_ns: Iterable[int]) -> Span | None:
        """The span of stamps in any order; None without any."""
        stamps = list(stamps_ns)
        return cls(min(stamps), max(stamps)) if stamps else None

    def with_stamp(self, stamp_ns: int) -> Span:
        """The span that holds another stamp, too."""
        return Span(min(self.first_ns, stamp_ns), max(self.last_ns, stamp_ns))

    def meets(self, other: Span) -> bool:
        """Tell whether any time is in both."""
        return self.first_ns <= other.last_ns and other.first_ns <= self.last_ns

    def shrunk(self, factor: int) -> Span:
        """The span if its stamps are in another unit."""
        return Span(self.first_ns // factor, self.last_ns // factor)

    @property
    def length_ns(self) -> int:
        """From the first to the last."""
        return self.last_ns - self.first_ns

    @property
    def is_unset(self) -> bool:
        """Whether all stamps are 0."""
        return self.first_ns == self.last_ns == 0

    @property
    def has_dates(self) -> bool:
        """Whether the stamps count from 1970."""
        return self.first_ns >= LEAST_DATE_NS

    def __str__(self) -> str:
        return f'{self.first_ns / SECOND_NS:.3f} to {self.last_ns / SECOND_NS:.3f} s'


def _is_time_zone(difference_ns: int) -> bool:
    off_ns = abs(difference_ns + HALF_HOUR_NS // 2) % HALF_HOUR_NS - HALF_HOUR_NS // 2
    return (HALF_HOUR_NS // 2 < abs(difference_ns) <= MOST_ZONE_NS
            and abs(off_ns) <= ZONE_SLACK_NS)


def _too_large_by(images: Span, poses: Span) -> int | None:
    """The factor between seconds and the unit of the poses' stamps; None if that is no reason."""
    for factor in UNITS:
        shrunk = poses.shrunk(factor)
        is_as_long = images.length_ns < 3 * shrunk.length_ns < 9 * images.length_ns
        if shrunk.meets(images) and (images.has_dates or is_as_long):
            return factor
    return None


def likely_reason(images: Span, poses: Span) -> str:
    """What usually is the reason if the stamps do not meet; empty if they do."""
    factor = _too_large_by(images, poses)
    if factor:
        return f'the stamps of the poses seem to be in {UNITS[factor]}: divide them by {factor}'
    if poses.meets(images):
        return ''
    if images.has_dates and not poses.has_dates:
        return ('the poses count from a start, not from 1970: add the time of that start to '
                'their stamps, or let both go by one clock (use_sim_time)')
    if poses.has_dates and not images.has_dates:
        return ('the images count from a start, not from 1970: a camera or a simulation with a '
                'clock of its own (use_sim_time lets all go by the simulated one)')
    apart_ns = poses.first_ns - images.first_ns
    if _is_time_zone(apart_ns):
        return (f'the clocks are {apart_ns / SECOND_NS / 3600:+.1f} h apart: one of them seems to '
                'be in a local time')
    return ('they are of two recordings, or of two computers whose clocks differ (chrony or PTP '
            'keeps them alike)')


def why_apart(images: Span, poses: Span, what: str) -> str:
    """Why no stamp of the poses can belong to an image, with the likely reason; empty if it can.

    Args:
        images, poses: their stamps.
        what: what the poses are called, e.g. 'odometry'.
    """
    for told, span in (('images', images), (what, poses)):
        if span.is_unset:
            return f'the stamps of the {told} are all 0: the driver sets no stamps'
    reason = likely_reason(images, poses)
    return reason and f'the images are from {images}, the {what} from {poses}; {reason}'


def describe_gap(images: Span, poses: Span | None, what: str, max_gap_s: float) -> str:
    """Say why no image has a pose.

    Args:
        images: stamps of the images.
        poses: stamps of the poses, or None if there are none.
        what: the poses' name, e.g. '/odom'.
        max_gap_s: between poses that are further apart, there is none; 0 goes by their rate.
    """
    if poses is None:
        return f'{what} holds no pose'
    gap = f'more than {max_gap_s:g} s apart' if max_gap_s else 'too far apart, or they jump'
    apart = why_apart(images, poses, 'poses') or (
        f'the images are from {images}, the poses from {poses}; where the images are, the poses '
        f'are {gap}')
    return f'no image has a pose of {what}: {apart}'
