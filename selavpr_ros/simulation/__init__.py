"""A procedural town to drive through: images, odometry and ground truth without a robot.

    world = World.generate(seed=0)
    image = render(world, Camera(), world.route.pose_at(way_m=12.0, lateral_m=0.5), Light())

`streets` plans the town; `houses`, `facades`, `ground`, `sprites` and `sky` build and paint it;
`world` holds it. `renderer` takes the picture under a `light`: `daylight` applies the light to the
whole world, `weather` to an image. `robot` drives and `bag` records.
"""

from selavpr_ros.simulation.bag import write_bag
from selavpr_ros.simulation.camera import Camera
from selavpr_ros.simulation.light import Light, Season
from selavpr_ros.simulation.passers_by import draw_passers_by
from selavpr_ros.simulation.renderer import depth_map, render
from selavpr_ros.simulation.robot import DriveSettings, Frame, Trajectory, drive, take_images
from selavpr_ros.simulation.route import Route
from selavpr_ros.simulation.world import World

__all__ = [
    'Camera',
    'DriveSettings',
    'Frame',
    'Light',
    'Route',
    'Season',
    'Trajectory',
    'World',
    'depth_map',
    'draw_passers_by',
    'drive',
    'render',
    'take_images',
    'write_bag',
]
