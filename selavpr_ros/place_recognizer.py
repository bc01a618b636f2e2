"""The whole method: from an image to a judged list of candidates. Knows no ROS and no files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from selavpr_ros.decision.closures import ClosureDecision, LoopClosure, Verdict
from selavpr_ros.decision.gates import Candidate, Decision
from selavpr_ros.decision.novelty import Novelty
from selavpr_ros.decision.places import Whereabouts
from selavpr_ros.decision.relocalization import Relocalization, Relocalizer
from selavpr_ros.decision.session import OdometryJump, RunningSession
from selavpr_ros.decision.unrelated import Unrelated, usual_level
from selavpr_ros.errors import DescriptorError
from selavpr_ros.images.preprocess import make_thumbnail, preprocess
from selavpr_ros.maps.keyframe import Keyframe, NewKeyframe, SessionId
from selavpr_ros.maps.keyframe_map import KeyframeMap, Retrieval
from selavpr_ros.maps.local_codec import NONE, encode
from selavpr_ros.maps.retrieval import Scope, retrieve
from selavpr_ros.matching.evidence import Match, rerank
from selavpr_ros.matching.geometry import verify
from selavpr_ros.matching.query import NO_CONTEXT, Context, Query
from selavpr_ros.models import VprModel
from selavpr_ros.pose import Pose
from selavpr_ros.settings import Settings

# Decisions that recognise the place, also of a robot that has hardly moved.
RECOGNISED = (Decision.ACCEPTED, Decision.REJECT_STATIONARY)

# The timed stages. The last one comes after the candidates are published.
STAGES = ('preprocess', 'network', 'search', 'local_matching', 'gates', 'keyframe')


@dataclass(frozen=True)
class Recognition:
    """The result for one image.

    Attributes:
        query: the image's descriptors, pose and context.
        candidates: all retrieved keyframes, judged, best first.
        loop_closure: the accepted one, or None.
        earlier: loop closures of earlier queries, which this one made sure.
        keyframe: the query as a keyframe of the map, or None if it was not kept.
        searched: how many keyframes, from the oldest on, the query was compared with.
        reranked: whether the candidates are ordered by their mutual matches, not by similarity
            alone.
        stage_ms: milliseconds of each of STAGES; without the last one when it is published.
        relocalization: where the robot is in another session's map; None without an accepted
            candidate there.
        odometry_jump: why the query's pose is not known, or, if confirmed, why a session began
            with the query; None if the odometry did not jump.
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
    odometry_jump: OdometryJump | None = None

    @property
    def loop_closures(self) -> list[LoopClosure]:
        """All loop closures that this query made sure, its own last."""
        if self.loop_closure is None:
            return self.earlier
        own = LoopClosure(self.query, self.keyframe.id if self.keyframe else None,
                          self.candidates)
        return [*self.earlier, own]


class _Laps:
    """Times of consecutive stages."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.stage_ms: tuple[float, ...] = ()

    def lap(self) -> None:
        """Note the time of a stage that ends now."""
        now = time.perf_counter()
        self.stage_ms += ((now - self._last) * 1e3,)
        self._last = now

    def skip(self) -> None:
        """Leave out the time since the last stage."""
        self._last = time.perf_counter()


def _no_one(_: Recognition) -> None:
    """Publish nothing."""


class PlaceRecognizer:
    """Recognises places in a stream of images, and grows the map from it.

    Args:
        model: from `load_model`.
        settings: see `Settings`; None takes the defaults.
        keyframe_map: the map to go on with; None begins an empty one in memory.

    Attributes:
        settings: may be replaced at any time, also by another thread; used from the next image on.
        in_force: the settings of the image in work, or of the last one.
        keyframe_map: the map in use; `adopt` replaces it.
    """

    def __init__(
        self, model: VprModel, settings: Settings | None = None,
        keyframe_map: KeyframeMap | None = None,
    ) -> None:
        self.model = model
        self.settings = settings or Settings()
        self._relocalizer = Relocalizer()
        self.adopt(KeyframeMap(index=self.settings.index.type) if keyframe_map is None
                   else keyframe_map)

    # ---- state ---------------------------------------------------------------------------------

    def adopt(self, keyframe_map: KeyframeMap, label: str = '') -> None:
        """Go on with another map, in a new session with a label for people."""
        self.keyframe_map, self.in_force = keyframe_map, self.settings
        # The decision remembers keyframes of its map, so that another map needs a new one.
        self._decision = ClosureDecision(
            keyframe_map.find, self._verify,
            Unrelated.from_map(keyframe_map.unrelated, usual_level(
                has_local=not self.why_not_reranked,
                is_grid=self.model.local_positions() is not None)))
        self._session = RunningSession(SessionId(0))
        self.start_session(label)

    def start_session(self, label: str = '', *, after_jump: bool = False) -> int:
        """Begin a session, see `RunningSession`; returns its number, from 1 on."""
        robot_id = self.settings.robot_id
        number = 1 + max(self.session.session_id, self.keyframe_map.last_session_id(robot_id))
        self._session = RunningSession(
            SessionId(number, robot_id), label, after_jump=after_jump)
        self.restart_relocalization()
        return number

    def restart_relocalization(self) -> None:
        """Forget where the robot was; call it when the robot may have been carried."""
        self._decision.reset()
        self._relocalizer.reset()

    @property
    def session(self) -> SessionId:
        """The running session."""
        return self._session.id

    @property
    def unrelated(self) -> Unrelated:
        """What was learned of images that show different places."""
        return self._decision.unrelated

    @property
    def codec(self) -> str:
        """How local features are kept: as in the map's store, else by `map.local_codec`."""
        return self.keyframe_map.codec or self.in_force.map.local_codec

    @property
    def why_not_reranked(self) -> str:
        """Why candidates stay in the order of similarity; empty if they are re-ranked."""
        if not self.model.max_local_features:
            return f'{self.model.family} has no local features'
        if not self.in_force.verify.enabled:
            return 'verify.enabled is off'
        return 'map.local_codec is none' if self.codec == NONE else ''

    @property
    def why_not_verified(self) -> str:
        """Why mutual matches do not have to fit one movement; empty if they do."""
        if self.why_not_reranked or self.in_force.verify.geometry == 'none':
            return self.why_not_reranked or 'verify.geometry is none'
        if self.model.local_positions() is None:
            return f'the local features of {self.model.family} do not lie on a grid'
        return ''

    @property
    def _novelty(self) -> Novelty:
        return Novelty(self.model, self._session, self.unrelated, not self.why_not_reranked)

    # ---- the method ----------------------------------------------------------------------------

    def is_due(self, stamp_ns: int, pose: Pose | None = None) -> bool:
        """Tell whether an image is to be processed by the settings `query.*`; takes no time."""
        return self._session.is_due(stamp_ns, pose, self.settings.query)

    @torch.inference_mode()
    def recognize(
        self, image: np.ndarray, stamp_ns: int, pose: Pose | None = None,
        context: Context = NO_CONTEXT, publish: Callable[[Recognition], None] = _no_one,
    ) -> Recognition:
        """Describe an image, compare it with the map, judge the candidates, keep it if it is new.

        Args:
            image: (H, W, 3) uint8 RGB.
            stamp_ns: stamp of the image; has to increase. Two in a row that are more than a
                second back start a session.
            pose: pose of the robot in the odometry frame, or None. Where no robot can have got in
                that time, it is left out; two such poses in a row start a session.
            context: what else came with the image.
            publish: called with the result before the keyframe is encoded and written. It must
                not change the recogniser. If it raises, the keyframe is kept all the same.

        Raises:
            ImageError: not such an image.
            StampError: the stamp is not after the last one.
            DescriptorError: the model made no descriptor of it. The map stays as it was.
        """
        self.in_force, laps = self.settings, _Laps()
        tensor = preprocess(image, self.model.image_size, self.model.resize)
        if self._session.follow_clock(stamp_ns):
            self.start_session(self._session.label, after_jump=True)
        jump = self._session.follow_odometry(pose, stamp_ns)
        if jump and jump.is_confirmed:
            self.start_session(self._session.label, after_jump=True)
        elif jump:
            pose = None
        laps.lap()
        query = self._describe(tensor, (image.shape[0], image.shape[1]), stamp_ns, pose, context)
        laps.lap()
        searched = self._session.count_old_enough(
            query, self.keyframe_map, self.in_force.index)
        retrievals = self._retrieve(query, searched)
        laps.lap()
        matches = self._rerank(query, retrievals)
        laps.lap()
        is_new_view, verdict = self._judge(query, matches, searched)
        closure = next((c for c in verdict.candidates if c.decision is Decision.ACCEPTED), None)
        relocalization = self._relocalize(query, closure)
        keyframe = self._select(query, verdict, is_new_view)
        laps.lap()
        found = Recognition(
            query, verdict.candidates, closure, verdict.earlier, keyframe, searched,
            not self.why_not_reranked, laps.stage_ms, relocalization, jump)
        try:
            publish(found)
        finally:  # whatever became of the candidates, what is a keyframe by now is kept
            laps.skip()
            self._keep(keyframe, query, image)
        laps.lap()
        return replace(found, stage_ms=laps.stage_ms)

    def _describe(
        self, tensor: torch.Tensor, size: tuple[int, int], stamp_ns: int, pose: Pose | None,
        context: Context,
    ) -> Query:
        descriptors = self.model(tensor[None].to(self.model.device, self.model.dtype))
        local, global_descriptor = descriptors.local_features, descriptors.global_descriptor[0]
        length = float(global_descriptor.norm())
        if not 0.5 < length < 2.0:  # NaN, too
            raise DescriptorError(
                f'the descriptor has length {length:.2g} instead of 1: a uniform image, or '
                'model.precision overflows (then try fp32)')
        return Query(
            stamp_ns, self.session, global_descriptor.cpu().numpy(),
            None if local is None else local[0], pose, self._session.travel(pose, stamp_ns),
            context.for_images_of(size), size)

    def _retrieve(self, query: Query, old_enough: int) -> list[Retrieval]:
        context, settings = query.context, self.in_force.index
        sessions = 'inter' if context.only_other_sessions else settings.session_filter
        scope = Scope(self.session, old_enough, sessions, context.hint)
        return retrieve(self.keyframe_map, query.global_descriptor, settings.top_k, scope)

    def _rerank(self, query: Query, retrievals: list[Retrieval]) -> list[Match]:
        local = query.local_features
        matches = [Match(r.keyframe, r.rank, r.similarity, 0, math.nan) for r in retrievals]
        if local is None or self.why_not_reranked:
            return matches
        features = [self.keyframe_map.local_features(r.keyframe.id) for r in retrievals]
        return rerank(matches, local, features, self.model)

    def _verify(self, query: Query, match: Match) -> Match:
        """The match with its geometry, where that can be computed."""
        positions, context = self.model.local_positions(), query.context
        if self.why_not_verified or positions is None:
            return match
        return replace(match, geometry=verify(
            match.pairs.pairs, positions, query.size, self.in_force.verify.geometry,
            context.camera, context.depth_m))

    def _judge(self, query: Query, matches: list[Match], searched: int) -> tuple[bool, Verdict]:
        """Whether the query is a new view, and what was decided on it."""
        session, settings = self._session, self.in_force
        moved_m = session.moved_since_view(query)
        session.learn_similarity(query)
        is_new_view = self._novelty.is_view(
            query, settings.gates.min_motion, settings.keyframe.min_rotation)
        session.last_query = query
        if is_new_view:
            session.set_view(query)
        # Views are remembered without local features, which would take most of the memory.
        return is_new_view, self._decision.judge(
            replace(query, local_features=None), matches, is_new_view, settings.gates,
            comparable=searched, moved_m=moved_m,
            here=Whereabouts(self.session, query.pose, query.travelled_m))

    def _relocalize(self, query: Query, closure: Candidate | None) -> Relocalization | None:
        if closure is None or closure.match.keyframe.id.session == self.session:
            return None
        return self._relocalizer.update(
            closure, query.pose, self.in_force.relocalization, self._decision.hypotheses)

    # ---- keyframes -----------------------------------------------------------------------------

    def _select(self, query: Query, verdict: Verdict, is_new_view: bool) -> Keyframe | None:
        """The query as a keyframe, if it becomes one."""
        if self.keyframe_map.why_closed and self.keyframe_map.unsaved:
            self.keyframe_map.flush()  # a disk that was full may have room again
        if not self._novelty.is_apart(query, self.in_force.keyframe):
            return None
        recognised = next(
            (c.match for c in verdict.candidates if c.decision in RECOGNISED), None)
        is_known = recognised and self._novelty.is_duplicate(
            recognised, self.in_force.keyframe.max_overlap)
        settings = self.in_force.map
        is_kept = (settings.mode == 'mapping' and not self.keyframe_map.why_closed
                   and not is_known and self.keyframe_map.make_room(settings, self.session))
        self._session.set_apart(query, is_kept)
        if not is_kept:
            return None
        has_local = query.local_features is not None and self.codec != NONE
        keyframe = self._session.next_keyframe(query, has_local=has_local)
        if recognised:
            self._decision.remember(keyframe.id, recognised.keyframe.id)
        if is_new_view:
            self._decision.kept(keyframe.id)
        return keyframe

    def _keep(self, keyframe: Keyframe | None, query: Query, image: np.ndarray) -> None:
        """Write what the map learns of a query."""
        self.keyframe_map.unrelated = self.unrelated.to_json()
        if keyframe:
            local = query.local_features
            thumbnail = make_thumbnail(image) if self.in_force.map.thumbnails else b''
            self.keyframe_map.add(NewKeyframe(
                keyframe, self._session.describe(query, self.model.model_id),
                None if local is None else encode(local, self.codec), thumbnail,
                query.context.pose_covariance))
        elif self.keyframe_map.unsaved:
            self.keyframe_map.flush()
