"""From settings to an open map."""

from __future__ import annotations

from pathlib import Path

from selavpr_ros.config import Settings
from selavpr_ros.errors import MapError
from selavpr_ros.keyframe_map import KeyframeMap
from selavpr_ros.map_file import MapFile
from selavpr_ros.map_schema import new_manifest


def open_map(
    settings: Settings, model_id: str, *, allow_model_mismatch: bool = False
) -> KeyframeMap:
    """Open the map that the settings `map.*` name; without `map.path` a temporary one.

    Args:
        settings: `map.*` and `index.*`.
        model_id: of the model that will ask, see `VprModel.model_id`.
        allow_model_mismatch: take a map of another model, for who knows that its descriptors
            can be compared all the same.

    Raises:
        MapError: the file cannot be opened, or is of another model.
    """
    path = Path(settings.map.path).expanduser() if settings.map.path else None
    manifest = new_manifest(model_id, settings.map.local_codec)
    file = MapFile(path, manifest, read_only=settings.map.read_only)
    try:
        if file.manifest.model_id != model_id and not allow_model_mismatch:
            raise MapError(
                f'{path}: its descriptors are of model {file.manifest.model_id}, those of '
                f'{model_id} cannot be compared with them: set model.weights to that model, or '
                'map.path to a new file')
        return KeyframeMap(
            file, index=settings.index.type, cache_bytes=settings.map.local_cache_mib << 20)
    except BaseException:
        file.close()
        raise
