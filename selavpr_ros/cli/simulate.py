"""Write a bag of a robot driving laps through a procedural town.

The bag holds camera images, camera info, drifting odometry and ground truth. The second lap runs
beside the first one, in another light.

  vpr simulate monday.bag --laps 1
  vpr simulate tuesday.bag --laps 1 --session 2    the same town, at another time of day
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selavpr_ros.simulation import Camera, Trajectory, World


DAY_NS = 86_400_000_000_000
START_SHARE = 0.4  # share of a lap by which each session starts farther on
SEEDS_BETWEEN = 1000  # between the noise seeds of two sessions


def image_size(text: str) -> tuple[int, int]:
    """'320x240' -> (320, 240)."""
    try:
        width, height = (int(part) for part in text.lower().split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form 320x240') from None
    if width < 16 or height < 16:
        raise argparse.ArgumentTypeError(f'{text} is too small: at least 16x16')
    return width, height


def positive(text: str) -> float:
    """A number above zero."""
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f'{text} is not above zero')
    return value


def lap_count(text: str) -> int:
    """A whole number of at least one."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f'{text} laps: at least 1 is needed')
    return count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vpr simulate`."""
    parser.add_argument('bag', type=Path, metavar='OUT.bag', help='rosbag2 folder to write')
    parser.add_argument('--seed', type=int, default=0, help='which town (default: %(default)s)')
    parser.add_argument(
        '--laps', type=lap_count, default=2, help='rounds to drive (default: %(default)s)'
    )
    parser.add_argument(
        '--length',
        type=positive,
        default=160.0,
        metavar='M',
        help='length of a lap in metres, 60 to 800 (default: %(default)s)',
    )
    parser.add_argument(
        '--speed',
        type=positive,
        default=1.5,
        metavar='M/S',
        help='driving speed (default: %(default)s)',
    )
    parser.add_argument(
        '--rate',
        type=positive,
        default=10.0,
        metavar='HZ',
        help='images per second (default: %(default)s)',
    )
    parser.add_argument(
        '--size',
        type=image_size,
        default=(320, 240),
        metavar='WxH',
        help='image size in pixels (default: 320x240)',
    )
    parser.add_argument(
        '--storage',
        choices=('sqlite3', 'mcap'),
        default='sqlite3',
        help='kind of bag (default: %(default)s)',
    )
    parser.add_argument(
        '--session',
        type=lap_count,
        default=1,
        metavar='N',
        help='the N-th day in the same town: in the light of the N-th lap, from another start, '
        'with an odometry of its own (default: 1)',
    )
    parser.add_argument('--compressed', action='store_true', help='JPEG images, not raw ones')
    parser.add_argument('--picture', type=Path, metavar='OUT.png', help='also draw an overview')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing bag')


def run(args: argparse.Namespace) -> None:
    """Build the town, drive, and write the bag and the overview."""
    from selavpr_ros.errors import VprError
    from selavpr_ros.simulation import Camera, DriveSettings, World, drive
    from selavpr_ros.simulation.bag import check_target
    from selavpr_ros.simulation.picture import draw_overview, save_picture

    check_target(args.bag, overwrite=args.overwrite)
    if args.picture and args.laps < 2:
        raise VprError('--picture compares two laps: drive at least --laps 2')
    world = World.generate(args.seed, args.length)
    camera = Camera(width=args.size[0], height=args.size[1])
    later = args.session - 1
    settings = DriveSettings(
        laps=args.laps,
        speed_m_per_s=args.speed,
        image_rate_hz=args.rate,
        start_ns=DriveSettings.start_ns + later * DAY_NS,
        start_m=later * START_SHARE * world.route.length_m,
    )
    trajectory = drive(world.route, settings, args.seed + later * SEEDS_BETWEEN)
    record(args, world, camera, trajectory)
    print(f'{args.bag}: {len(trajectory.image_stamps_ns)} images, {args.laps} laps')
    if args.picture:
        save_picture(args.picture, draw_overview(world, camera, trajectory))
        print(f'{args.picture}: overview')


def record(args: argparse.Namespace, world: World, camera: Camera, trajectory: Trajectory) -> None:
    """Take the images and write the bag, with a progress bar."""
    from tqdm import tqdm

    from selavpr_ros.simulation import take_images, write_bag
    from selavpr_ros.simulation.light import LAP_LIGHTS

    later = args.session - 1
    first = later % len(LAP_LIGHTS)
    lights = LAP_LIGHTS[first:] + LAP_LIGHTS[:first]
    frames = tqdm(
        take_images(world, camera, trajectory, lights, args.seed + later * SEEDS_BETWEEN),
        total=len(trajectory.image_stamps_ns),
        unit='image',
        desc=f'{args.laps} laps of {world.route.length_m:.0f} m',
    )
    write_bag(
        args.bag,
        camera,
        trajectory,
        frames,
        storage=args.storage,
        compressed=args.compressed,
        overwrite=args.overwrite,
    )
