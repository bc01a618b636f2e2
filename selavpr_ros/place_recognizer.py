"""The whole method: from an image to a judged list of candidates. Knows no ROS and no files."""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch

from selavpr_ros.decision.closures import (
    Candidate,
    ClosureDecision,
    Decision,
    LoopClosure,
    Verdict,
    Whereabouts,
)
from selavpr_ros.decision.relocalization import Relocalization, Relocalizer
from selavpr_ros.decision.unrelated import (
    USUAL_MATCHES,
    USUAL_OVERLAP,
    USUAL_SIMILARITY,
    Unrelated,
)
from selavpr_ros.errors import DescriptorError, StampError
from selavpr_ros.images.camera import Camera
from selavpr_ros.images.preprocess import make_thumbnail, preprocess
from selavpr_ros.maps.keyframe import Hint, Keyframe, KeyframeId, NewKeyframe, Session, SessionId
from selavpr_ros.maps.keyframe_index import Rows
from selavpr_ros.maps.keyframe_map import REJECT_NEW, KeyframeMap, Retrieval
from selavpr_ros.maps.local_codec import NONE, encode
from selavpr_ros.matching.evidence import Match, overlap_of, rerank
from selavpr_ros.matching.geometry import verify
from selavpr_ros.matching.mutual import mutual_matches
from selavpr_ros.models import VprModel
from selavpr_ros.pose import TIME_JUMP_NS, Pose
from selavpr_ros.settings import Settings

# A robot that hardly moves knows where it is all the same.
RECOGNISED = (Decision.ACCEPTED, Decision.REJECT_STATIONARY)

# Without odometry, a view with more in common with the one before comes from a robot that stands.
VIEW_OVERLAP = 0.5
# Where nothing is known of a site: images that are no more alike than that have nothing in common.
UNRELATED_SIMILARITY = 0.95
# Queries that tell more than that.
LEARNED_QUERIES = 20
# Metres a second that no robot drives: the odometry jumped.
MOST_SPEED = 50.0

STAGES = ('preprocess', 'network', 'search', 'local_matching', 'gates')


@dataclass(frozen=True)
class Context:
    """What belongs to an image besides its pixels, its stamp and the robot's pose.

    Attributes:
        pose_frame: name of the odometry frame.
        pose_covariance: (36,) of the pose, or None.
        camera: of the image, for relative poses; None where it is not known.
        depth_m: (h, w) float32, for `verify.geometry` pnp: metres along the optical axis, NaN or 0
            where unknown, over the same field of view; or None.
    """

    pose_frame: str = 'odom'
    pose_covariance: np.ndarray | None = None
    camera: Camera | None = None
    depth_m: np.ndarray | None = None


NO_CONTEXT = Context()


@dataclass(frozen=True)
class Query:
    """The image asked about now.

    Attributes:
        stamp_ns: of the image.
        session: in which it was taken.
        global_descriptor: (D,) float32, a unit vector.
        local_features: (N, d) float32 unit rows, or None.
        pose: of the robot, or None.
        travelled_m: since the session's start, along the known poses.
        context: what else came with the image.
        size: (height, width) of the image in pixels.
    """

    stamp_ns: int
    session: SessionId
    global_descriptor: np.ndarray
    local_features: torch.Tensor | None
    pose: Pose | None
    travelled_m: float
    context: Context = NO_CONTEXT
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Recognition:
    """What came out for one image.

    Attributes:
        query: the image's descriptors.
        candidates: all retrieved keyframes, judged, best first.
        loop_closure: the accepted one, or None.
        earlier: loop closures of queries before, which this one made sure.
        keyframe: the query as a keyframe of the map, or None if it was not kept.
        searched: how many keyframes, from the oldest on, the query was compared with.
        reranked: whether the candidates are in the order of their mutual matches, not of
            similarity alone.
        stage_ms: milliseconds of each of STAGES.
        relocalization: where this is in another session's map; None without an accepted
            candidate there.
    """

    query: Query
    candidates: list[Candidate]
    loop_closure: Candidate | None
    earlier: list[LoopClosure]
    keyframe: Keyframe | None
    searched: int
    reranked: bool
    stage_ms: tuple[float, ...]
    relocalization: Relocalization | None = None

    @property
    def loop_closures(self) -> list[LoopClosure]:
        """All that this query made sure, its own last."""
        if self.loop_closure is None:
            return self.earlier
        own = LoopClosure(self.query, self.keyframe.id if self.keyframe else None,
                          self.candidates)
        return [*self.earlier, own]


class _Laps:
    """Times of consecutive stages."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.stage_ms: list[float] = []

    def lap(self) -> None:
        now = time.perf_counter()
        self.stage_ms.append((now - self._last) * 1e3)
        self._last = now


class PlaceRecognizer:
    """Recognises places in a stream of images, and grows the map from it.

    Args:
        model: from `load_model`.
        settings: may be replaced at any time between two images.
        keyframe_map: to go on with; empty, and in memory alone, if None.

    Attributes:
        hint: where the robot may be; then only keyframes there are candidates.
        only_other_sessions: whether `index.session_filter` is 'inter' for now.
    """

    def __init__(
        self, model: VprModel, settings: Settings | None = None,
        keyframe_map: KeyframeMap | None = None,
    ) -> None:
        self.model = model
        self.settings = settings or Settings()
        self._positions = model.local_positions()
        self.only_other_sessions = False
        self._relocalizer = Relocalizer()
        self.adopt(KeyframeMap(index=self.settings.index.type) if keyframe_map is None
                   else keyframe_map)

    def adopt(self, keyframe_map: KeyframeMap, label: str = '') -> None:
        """Go on with another map, in a session of its own that people call `label`."""
        self.keyframe_map = keyframe_map
        # What it remembers are keyframes of the map.
        self._decision = ClosureDecision(
            keyframe_map.find, self._verify,
            self._what_was_learned(keyframe_map.unrelated))
        self.hint: Hint | None = None
        self.session_id = 0
        self.start_session(label)

    @property
    def why_not_reranked(self) -> str:
        """Why candidates stay in the order of similarity; empty if they are re-ranked."""
        if not self.model.max_local_features:
            return f'{self.model.family} has no local features'
        if not self.settings.verify.enabled:
            return 'verify.enabled is off'
        return 'map.local_codec is none' if self.codec == NONE else ''

    def _what_was_learned(self, text: str) -> Unrelated:
        """What a map tells of unrelated images; without it, or if it is damaged, a guess."""
        with suppress(ValueError):
            return Unrelated.from_json(text)
        return Unrelated(level=self._usual_level)

    @property
    def _usual_level(self) -> float:
        """What unrelated images score before anything is learned; rather too much."""
        if self.why_not_reranked:
            return USUAL_SIMILARITY
        return USUAL_MATCHES if self._positions is None else USUAL_OVERLAP

    @property
    def codec(self) -> str:
        """How local features are kept: as in the map's file, else by the settings."""
        return self.keyframe_map.codec or self.settings.map.local_codec

    def start_session(self, label: str = '', *, after_time_jump: bool = False) -> int:
        """Begin a new recording with its own odometry frame.

        Args:
            label: what a person calls it.
            after_time_jump: the stamps jumped, the robot perhaps not: then the newest keyframes
                of the session before are too recent to be candidates, too.

        Returns:
            The new session's id.
        """
        robot_id = self.settings.robot_id
        self.session_id = max(self.session_id, self.keyframe_map.last_session_id(robot_id)) + 1
        self._label = label
        self._session_keyframes = 0
        # Of the last views that are apart like keyframes, whether they were kept.
        self._were_kept: deque[bool] = deque()
        self._after_time_jump = after_time_jump
        self._behind_ns: int | None = None
        self._travelled_m = 0.0
        self._last_pose: Pose | None = None
        self._last_pose_ns = 0
        self._last_query: Query | None = None
        self._last_view: Query | None = None
        self._last_apart: Query | None = None
        self._lowest_similarity = UNRELATED_SIMILARITY
        self.restart_relocalization()
        return self.session_id

    def restart_relocalization(self) -> None:
        """Forget where the last candidates saw the robot: it may have been carried."""
        self._decision.reset()
        self._relocalizer.reset()

    @property
    def session(self) -> SessionId:
        """The running session."""
        return SessionId(self.session_id, self.settings.robot_id)

    def is_due(self, stamp_ns: int, pose: Pose | None = None) -> bool:
        """Tell whether an image is to be processed, by `query.*`; costs nothing."""
        last, settings = self._last_query, self.settings.query
        if last is None or stamp_ns <= last.stamp_ns:
            return True
        # Cameras jitter: an image a tenth of the period early is still on time.
        if (stamp_ns - last.stamp_ns) * 1e-9 < 0.9 / settings.max_rate:
            return False
        return _moved(last.pose, pose, settings.min_translation, settings.min_rotation)

    @torch.inference_mode()
    def recognize(
        self, image: np.ndarray, stamp_ns: int, pose: Pose | None = None,
        context: Context = NO_CONTEXT,
    ) -> Recognition:
        """Describe an image, compare it with the map, judge the candidates, keep it if it is new.

        Args:
            image: (H, W, 3) uint8 RGB.
            stamp_ns: of the image; has to increase. Two in a row that are more than a second
                back start a session.
            pose: of the robot in the odometry frame, or None.
            context: what else came with the image.

        Raises:
            ImageError: not such an image. StampError: the stamp runs backwards.
            DescriptorError: the model found nothing in it. The map stays as it was.
        """
        laps = _Laps()
        tensor = preprocess(image, self.model.image_size, self.model.resize)
        self._check_stamp(stamp_ns)
        laps.lap()
        query = replace(self._describe(tensor, stamp_ns, pose), context=context,
                        size=(image.shape[0], image.shape[1]))
        laps.lap()
        searched = self._count_old_enough(query)
        retrievals = self._retrieve(query.global_descriptor, searched)
        laps.lap()
        matches = self._rerank(query, retrievals)
        laps.lap()
        is_new_view, verdict = self._judge(query, matches, searched)
        candidates = verdict.candidates
        laps.lap()
        closure = next((c for c in candidates if c.decision is Decision.ACCEPTED), None)
        relocalization = self._relocalize(query, closure)
        recognised = next((c.match for c in candidates if c.decision in RECOGNISED), None)
        keyframe = self._keep(query, image) if self._is_new(query, recognised) else None
        if keyframe and recognised:
            self._decision.remember(keyframe.id, recognised.keyframe.id)
        if keyframe and is_new_view:
            self._decision.kept(keyframe.id)
        self.keyframe_map.unrelated = self._decision.unrelated.to_json()
        self._last_query = query
        return Recognition(
            query, candidates, closure, verdict.earlier, keyframe, searched,
            not self.why_not_reranked, tuple(laps.stage_ms), relocalization)

    @property
    def unrelated(self) -> Unrelated:
        """What is known of images that show different places."""
        return self._decision.unrelated

    @property
    def why_not_verified(self) -> str:
        """Why mutual matches do not have to fit one movement; empty if they do."""
        if self.why_not_reranked or self.settings.verify.geometry == 'none':
            return self.why_not_reranked or 'verify.geometry is none'
        if self._positions is None:
            return f'{self.model.family} chooses its local features: they are no grid'
        return ''

    def _check_stamp(self, stamp_ns: int) -> None:
        """Refuse a stamp that is not after the last; a second one in a row is a time jump."""
        before_ns, self._behind_ns = self._behind_ns, None
        if self._last_query is None or stamp_ns > self._last_query.stamp_ns:
            return
        back_ns = self._last_query.stamp_ns - stamp_ns
        if back_ns > TIME_JUMP_NS:
            if before_ns is not None and stamp_ns > before_ns:
                self.start_session(self._label, after_time_jump=True)
                return
            self._behind_ns = stamp_ns
        raise StampError(f'image stamp {stamp_ns} is {back_ns * 1e-9:.3f} s before the last '
                         'one; images must come in order')

    def _describe(self, tensor: torch.Tensor, stamp_ns: int, pose: Pose | None) -> Query:
        descriptors = self.model(tensor[None].to(self.model.device, self.model.dtype))
        local, global_descriptor = descriptors.local_features, descriptors.global_descriptor[0]
        length = float(global_descriptor.norm())
        if not 0.5 < length < 2.0:  # NaN, too
            raise DescriptorError(
                f'the descriptor has length {length:.2g} instead of 1: a uniform image, or '
                'model.precision overflows (then try fp32)')
        if pose:
            self._travelled_m += self._way_since_last_pose(pose, stamp_ns)
            self._last_pose, self._last_pose_ns = pose, stamp_ns
        return Query(
            stamp_ns, self.session, global_descriptor.cpu().numpy(),
            None if local is None else local[0], pose, self._travelled_m)

    def _way_since_last_pose(self, pose: Pose, stamp_ns: int) -> float:
        """Metres travelled; where odometry jumped, nobody knows of any."""
        moved_m = pose.distance_to(self._last_pose or pose)
        return moved_m if _is_possible(moved_m, stamp_ns - self._last_pose_ns) else 0.0

    def _count_old_enough(self, query: Query) -> int:
        """Count the keyframes, from the oldest on, that a query may be compared with."""
        settings, keyframe_map = self.settings.index, self.keyframe_map
        # A known way adds no keyframes: the newest of these may be a lap old.
        while len(self._were_kept) > settings.exclude_recent_keyframes:
            self._were_kept.popleft()
        count = keyframe_map.first_recent(
            self.session, query.stamp_ns, query.travelled_m if query.pose else 0.0,
            sum(self._were_kept), settings.exclude_recent_seconds,
            settings.exclude_recent_distance)
        if self._after_time_jump:
            before = settings.exclude_recent_keyframes - len(self._were_kept)
            count = min(count, len(keyframe_map) - before - sum(self._were_kept))
        return max(0, count)

    def _retrieve(self, global_descriptor: np.ndarray, old_enough: int) -> list[Retrieval]:
        """The most similar keyframes, of other robots, too, where the map is shared."""
        top_k = self.settings.index.top_k
        found = self.keyframe_map.search(global_descriptor, top_k, self._comparable(old_enough))
        if self._wanted_sessions != 'intra':
            found += self.keyframe_map.search_shared(global_descriptor, top_k, self.hint)
        found.sort(key=lambda retrieval: -retrieval.similarity)
        return [replace(each, rank=rank) for rank, each in enumerate(found[:top_k])]

    @property
    def _wanted_sessions(self) -> str:
        return 'inter' if self.only_other_sessions else self.settings.index.session_filter

    def _comparable(self, old_enough: int) -> Rows:
        """Rows of the keyframes that a query is compared with."""
        start = min(self.keyframe_map.session_start(self.session), old_enough)
        wanted = self._wanted_sessions
        rows = range(start if wanted == 'intra' else 0, start if wanted == 'inter' else old_enough)
        if self.hint is None:
            return rows
        near = self.keyframe_map.near(self.hint.position_m, self.hint.radius_m)
        return near[(near >= rows.start) & (near < rows.stop)]

    def _rerank(self, query: Query, retrievals: list[Retrieval]) -> list[Match]:
        local = query.local_features
        matches = [Match(r.keyframe, r.rank, r.similarity, 0, math.nan) for r in retrievals]
        if local is None or self.why_not_reranked:
            return matches
        features = [self.keyframe_map.local_features(r.keyframe.id) for r in retrievals]
        return rerank(matches, local, features, self.model)

    def _verify(self, query: Query, match: Match) -> Match:
        """The match with its geometry, where it can be looked at."""
        if self.why_not_verified or self._positions is None:
            return match
        return replace(match, geometry=verify(
            match.pairs.pairs, self._positions, query.size, self.settings.verify.geometry,
            query.context.camera, query.context.depth_m))

    def _judge(
        self, query: Query, matches: list[Match], searched: int
    ) -> tuple[bool, Verdict]:
        """Whether the query is a new view, and what was decided on it."""
        last, moved_m = self._last_view, math.nan
        if last and last.pose and query.pose:
            moved_m = self._way_between(last, query)
        is_new_view = last is None or self._differs(
            last, query, self.settings.gates.min_motion, self.settings.keyframe.min_rotation,
            VIEW_OVERLAP)
        if is_new_view:
            self._last_view = query
        here = Whereabouts(self.session, query.pose, query.travelled_m)
        # Views are remembered; their local features would be most of what that takes.
        return is_new_view, self._decision.judge(
            replace(query, local_features=None), matches, is_new_view, self.settings.gates,
            comparable=searched, moved_m=moved_m, here=here)

    @staticmethod
    def _way_between(last: Query, query: Query) -> float:
        """Metres between two queries with poses; NaN where odometry jumped."""
        assert last.pose
        assert query.pose
        moved_m = last.pose.distance_to(query.pose)
        return moved_m if _is_possible(moved_m, query.stamp_ns - last.stamp_ns) else math.nan

    def _differs(
        self, last: Query, query: Query, min_translation: float, min_rotation: float,
        max_overlap: float,
    ) -> bool:
        """Tell whether a query shows something new: by motion, or without it by its look."""
        if query.pose and last.pose:
            return _moved(last.pose, query.pose, min_translation, min_rotation)
        return self._overlap(last, query) <= max_overlap

    def _overlap(self, last: Query, query: Query) -> float:
        """How much of the view two queries have in common, in [0, 1]."""
        similarity = float(query.global_descriptor @ last.global_descriptor)
        self._lowest_similarity = min(self._lowest_similarity, similarity)
        if last.local_features is None or query.local_features is None or self.why_not_reranked:
            return self._overlap_by(similarity)
        pairs = mutual_matches(
            query.local_features, last.local_features, self.model.match_similarity).cpu().numpy()
        if self._positions is None:
            return len(pairs) / max(1, len(query.local_features))
        return overlap_of(pairs, self._positions)

    def _overlap_by(self, similarity: float) -> float:
        """The same by similarity alone: what unrelated images have is nothing in common."""
        known = self._decision.unrelated
        is_learned = known.queries >= LEARNED_QUERIES and self.why_not_reranked
        unrelated = known.level - 1.0 if is_learned else self._lowest_similarity
        return (similarity - unrelated) / max(1.0 - unrelated, 1e-6)

    def _relocalize(self, query: Query, closure: Candidate | None) -> Relocalization | None:
        if closure is None or closure.match.keyframe.id.session == self.session:
            return None
        return self._relocalizer.update(
            closure, query.pose, self.settings.relocalization, self._decision.hypotheses)

    def _is_new(self, query: Query, recognised: Match | None) -> bool:
        """Tell whether a query becomes a keyframe."""
        if self.keyframe_map.unsaved:
            self.keyframe_map.flush()  # a disk that was full may have room again
        if not self._is_apart(query):
            return False
        is_new = (self.settings.map.mode == 'mapping' and not self.keyframe_map.why_closed
                  and not self._is_duplicate(recognised) and self._has_room())
        self._last_apart = query
        self._were_kept.append(is_new)
        return is_new

    def _is_apart(self, query: Query) -> bool:
        """Tell whether a query is as far from the last such one as keyframes are."""
        last, settings = self._last_apart, self.settings.keyframe
        if last is None:
            return True
        if (query.stamp_ns - last.stamp_ns) * 1e-9 < settings.min_interval:
            return False
        return self._differs(last, query, settings.min_translation, settings.min_rotation,
                             settings.max_overlap)

    def _is_duplicate(self, recognised: Match | None) -> bool:
        """What was recognised and looks the same as what is stored teaches the map nothing."""
        if recognised is None:
            return False
        overlap = recognised.overlap
        if math.isnan(overlap):
            overlap = (self._overlap_by(recognised.similarity)
                       if math.isnan(recognised.local_score) else recognised.local_score)
        return overlap > self.settings.keyframe.max_overlap

    def _has_room(self) -> bool:
        """Tell whether the map can take a keyframe; make room by `map.eviction` if it is full."""
        settings, keyframe_map = self.settings.map, self.keyframe_map
        if len(keyframe_map) >= settings.max_keyframes and settings.eviction != REJECT_NEW:
            keyframe_map.evict(settings.eviction, self.session)
        return len(keyframe_map) < settings.max_keyframes

    def _keep(self, query: Query, image: np.ndarray) -> Keyframe:
        settings, local = self.settings.map, query.local_features
        encoded = None if local is None else encode(local, self.codec)
        self._session_keyframes += 1
        keyframe = Keyframe(
            KeyframeId(self.session_id, self._session_keyframes, self.settings.robot_id),
            query.stamp_ns, query.global_descriptor, query.pose, query.travelled_m,
            has_local=encoded is not None)
        session = Session(self.session, self._label, query.stamp_ns, query.context.pose_frame,
                          self.model.model_id)
        self.keyframe_map.add(NewKeyframe(
            keyframe, session, encoded, make_thumbnail(image) if settings.thumbnails else b'',
            query.context.pose_covariance))
        return keyframe


def _is_possible(moved_m: float, duration_ns: int) -> bool:
    """Tell whether a robot can have gone so far in that time."""
    return moved_m <= MOST_SPEED * 1e-9 * duration_ns


def _moved(
    before: Pose | None, now: Pose | None, min_translation: float, min_rotation: float
) -> bool:
    """Tell whether a pose is far or turned enough; unknown poses count as moved."""
    if before is None or now is None or min_translation == 0.0:
        return True
    return now.distance_to(before) >= min_translation or (
        min_rotation > 0.0 and now.angle_to(before) >= min_rotation)
