"""Local features in memory."""

from __future__ import annotations

from collections import OrderedDict

from selavpr_ros.maps.keyframe import KeyframeId
from selavpr_ros.maps.local_codec import EncodedFeatures


class LocalCache:
    """The local features that were used last, up to a number of bytes; None is no limit."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.nbytes = 0
        self._features: OrderedDict[KeyframeId, EncodedFeatures] = OrderedDict()

    def put(self, keyframe_id: KeyframeId, local: EncodedFeatures) -> None:
        """Keep features as the newest ones, and let go of the oldest."""
        self.drop(keyframe_id)
        self._features[keyframe_id] = local
        self.nbytes += local.nbytes
        while self.limit is not None and self.nbytes > self.limit:
            self.drop(next(iter(self._features)))

    def get(self, keyframe_id: KeyframeId) -> EncodedFeatures | None:
        """Features that are here, which become the newest ones; else None."""
        if keyframe_id in self._features:
            self._features.move_to_end(keyframe_id)
        return self._features.get(keyframe_id)

    def drop(self, keyframe_id: KeyframeId) -> None:
        """Forget features, if they are here."""
        local = self._features.pop(keyframe_id, None)
        self.nbytes -= local.nbytes if local else 0
