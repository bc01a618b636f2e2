"""Stamps of two topics that do not meet, and the likely reason."""

from __future__ import annotations

from dataclasses import dataclass

# Stamps below this many seconds, three years, count from the start of something.
SINCE_START_S = 1e8
HOUR_S = 3600.0
# Time zones are whole quarters of an hour, up to so many hours.
MOST_HOURS = 14.0
# Two clocks that are set to the same time of day differ by less than this.
SET_ALIKE_S = 30.0


@dataclass(frozen=True)
class Span:
    """From the first to the last stamp, in nanoseconds."""

    first_ns: int
    last_ns: int

    def __str__(self) -> str:
        return f'{self.first_ns * 1e-9:.3f} to {self.last_ns * 1e-9:.3f} s'

    @property
    def is_unset(self) -> bool:
        """Whether all stamps are 0."""
        return self.first_ns == self.last_ns == 0

    def with_stamp(self, stamp_ns: int) -> Span:
        """The span that holds another stamp, too."""
        return Span(min(self.first_ns, stamp_ns), max(self.last_ns, stamp_ns))


def _likely_reason(images: Span, others: Span) -> str:
    difference_s = abs(images.first_ns - others.first_ns) * 1e-9
    low, high = sorted((images.last_ns * 1e-9, others.last_ns * 1e-9))
    if low < SINCE_START_S <= high:
        return ('one of them is the time of day, the other simulated time or the time since a '
                'start: let both go by one clock (use_sim_time)')
    quarters = 4.0 * difference_s / HOUR_S
    if (0.5 < quarters <= 4.0 * MOST_HOURS
            and abs(quarters - round(quarters)) * HOUR_S / 4.0 < SET_ALIKE_S):
        return f'they differ by {round(quarters) / 4.0:g} h, so that one seems to be local time'
    return ('they are of two recordings, or of two computers whose clocks differ (chrony or PTP '
            'keeps them alike)')


def why_apart(images: Span, others: Span, name: str) -> str:
    """Why no stamp of a topic can belong to an image, with the likely reason; empty if it can.

    Args:
        images, others: stamps of the images and of the other topic.
        name: of what the other topic carries, e.g. 'odometry'.
    """
    for told, span in (('images', images), (name, others)):
        if span.is_unset:
            return f'the stamps of the {told} are all 0: the driver sets no stamps'
    if others.first_ns <= images.last_ns and images.first_ns <= others.last_ns:
        return ''
    return (f'the images are from {images}, the {name} from {others}: '
            f'{_likely_reason(images, others)}')
