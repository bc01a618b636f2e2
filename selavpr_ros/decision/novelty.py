"""Whether a query shows something new: by motion, or without odometry by appearance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from selavpr_ros.decision.session import RunningSession, moved
from selavpr_ros.decision.unrelated import Unrelated
from selavpr_ros.matching.evidence import Match, shared_view
from selavpr_ros.matching.query import Query
from selavpr_ros.models.base import VprModel
from selavpr_ros.settings import KeyframeSettings

# Without odometry, the robot is taken to stand still if two views overlap by more than this.
VIEW_OVERLAP = 0.5
# Without local features: after this many queries, the learned level of unrelated images replaces
# the lowest similarity of the session.
LEARNED_QUERIES = 20


@dataclass(frozen=True)
class Novelty:
    """Compares a query with earlier queries and with keyframes.

    Attributes:
        model: the model that made the descriptors.
        session: the running session.
        unrelated: what was learned of images that show different places.
        has_local: whether local features are compared; else similarity alone decides.
    """

    model: VprModel
    session: RunningSession
    unrelated: Unrelated
    has_local: bool

    def is_view(self, query: Query, min_translation: float, min_rotation: float) -> bool:
        """Tell whether a query shows something new compared with the session's last view.

        Args:
            query: to compare.
            min_translation, min_rotation: metres and radians, see `moved`.
        """
        last = self.session.last_view
        return last is None or self._differs(
            last, self.session.placed_view, query, min_translation, min_rotation, VIEW_OVERLAP)

    def is_apart(self, query: Query, settings: KeyframeSettings) -> bool:
        """Tell whether a query is as far from the last such query as keyframes have to be."""
        last = self.session.last_apart
        if last is None:
            return True
        if (query.stamp_ns - last.stamp_ns) * 1e-9 < settings.min_interval:
            return False
        return self._differs(
            last, self.session.placed_apart, query, settings.min_translation,
            settings.min_rotation, settings.max_overlap)

    def is_duplicate(self, recognised: Match, max_overlap: float) -> bool:
        """Tell whether a query looks so much like a keyframe that the map learns nothing."""
        overlap = recognised.overlap
        if math.isnan(overlap):
            overlap = (self._overlap_by(recognised.similarity)
                       if math.isnan(recognised.local_score) else recognised.local_score)
        return overlap > max_overlap

    def _differs(
        self, last: Query, placed: Query | None, query: Query, min_translation: float,
        min_rotation: float, max_overlap: float,
    ) -> bool:
        # A query with a pose is compared by pose even if the last one has none: two views of a
        # dim scene have so much in common that the last one would stay the last one for ever.
        if query.pose:
            return moved(placed.pose if placed else None, query.pose, min_translation,
                         min_rotation)
        return self._overlap(last, query) <= max_overlap

    def _overlap(self, last: Query, query: Query) -> float:
        """How much of the view two queries have in common, in [0, 1]."""
        if not self.has_local or last.local_features is None or query.local_features is None:
            return self._overlap_by(query.similarity_to(last))
        return shared_view(query.local_features, last.local_features, self.model)

    def _overlap_by(self, similarity: float) -> float:
        """The overlap estimated by similarity alone: about 0 for unrelated images."""
        is_learned = self.unrelated.queries >= LEARNED_QUERIES and not self.has_local
        nothing = self.unrelated.level - 1.0 if is_learned else self.session.lowest_similarity
        return (similarity - nothing) / max(1.0 - nothing, 1e-6)
