"""Train a model as a recipe says, or adapt one to the bags of a site.

  vpr train recipe.yaml --data datasets --output run
      everything that decides the result is in the recipe; a training that was stopped goes on
      where it was, with the same result
  vpr train --adapt office.bag --weights SelaVPR_msls.pth --output office.safetensors
      train adapters and heads with the published losses on the bag's own places; a quarter of
      the places is held out to compare recall, and a file is written only if recall is better,
      but not in place of a file that is better still
  torchrun --nproc-per-node 4 -m selavpr_ros.cli.main train recipe.yaml --data sets --output run
      several GPUs or machines
  tensorboard --logdir run
      the curves, also while it runs

A recipe that follows the paper needs little: data, a backbone, and what its method is.

  data:
    - {path: msls/train, kind: walk}      folders whose images have positions in their names, or
                                          in a poses.csv (image,x_m,y_m,yaw_rad), or are in order
    - {path: drive.mcap, kind: bag}       a rosbag2 with odometry
    - {kind: simulated, worlds: 20}       towns drawn for this
  held_out:
    - {path: msls/val, kind: walk}
  backbone: vit_large_patch14_dinov2      adapters and heads alone are trained
  method: triplets                        SelaVPR; multi_similarity: CricaVPR, SALAD, FoL
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from selavpr_ros.errors import SettingError

if TYPE_CHECKING:
    from selavpr_ros.training.adapt import Adaptation
    from selavpr_ros.training.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `vpr train`."""
    parser.add_argument('recipe', type=Path, nargs='?', metavar='RECIPE.yaml',
                        help='what to train, on what, and how')
    parser.add_argument('--data', type=Path, default=Path(), metavar='DIR',
                        help="where the recipe's paths start (default: here)")
    parser.add_argument('-o', '--output', type=Path, metavar='OUT',
                        help='a folder for checkpoint, log and weights; with --adapt the '
                        '.safetensors file (default: <weights>_<bag>.safetensors)')
    parser.add_argument('--seed', type=int, metavar='N',
                        help="seed of all random numbers (default: the recipe's; --adapt: 0)")
    parser.add_argument('--device', default='auto', metavar='D',
                        help='auto, cpu, cuda, cuda:1 (default: %(default)s)')
    _add_adaptation(parser)


def _add_adaptation(parser: argparse.ArgumentParser) -> None:
    site = parser.add_argument_group('adaptation to a site')
    site.add_argument('--adapt', type=Path, nargs='+', metavar='BAG', help='rosbag2, one or more')
    site.add_argument('--weights', metavar='W', help="'embedded' or the path of a checkpoint")
    site.add_argument('--topic', metavar='T', help='images, where a bag has several topics')
    site.add_argument('--odom-topic', metavar='T',
                      help='odometry or other poses: they tell which images show one place')
    site.add_argument('--positive', type=float, default=10.0, metavar='M',
                      help='one place: nearer than that (default: %(default)g)')
    site.add_argument('--negative', type=float, default=25.0, metavar='M',
                      help='different places: farther than that (default: %(default)g)')
    site.add_argument('--rounds', type=int, default=5, metavar='N',
                      help='rounds of mining, training and validation (default: %(default)s)')
    site.add_argument('--batches', type=int, default=100, metavar='N',
                      help='batches per round (default: %(default)s)')
    site.add_argument('--learning-rate', type=float, default=1e-5, metavar='R',
                      help='learning rate (default: %(default)g, as published)')


def _train(args: argparse.Namespace) -> None:
    from selavpr_ros.training.recipe import load_recipe, with_seed
    from selavpr_ros.training.run import description, train, write_weights

    if args.output is None:
        raise SettingError('a training needs --output, a folder to keep its checkpoint in')
    trainer = train(with_seed(load_recipe(args.recipe), args.seed), args.data, args.output,
                    args.device)
    if trainer.rank == 0:
        target = args.output / f'{args.recipe.stem}.safetensors'
        told = description(trainer, args.recipe.stem)
        write_weights(trainer.method.model, target, told, trainer.recipe.half)
        print(f'{target} after {trainer.step} steps')
        print_recalls({'best': trainer.best})


def print_recalls(rows: dict[str, dict[str, float]]) -> None:
    """Print a line of recalls for each name."""
    for name, recall in rows.items():
        figures = ', '.join(f'{what} {value:.3f}' for what, value in recall.items()
                            if what != 'step')
        print(f'{name}: {figures}')


def _recipe(args: argparse.Namespace) -> Recipe:
    from selavpr_ros.training.adapt import site_recipe

    if not args.weights:
        raise SettingError('--adapt needs --weights: the model to start from')
    return site_recipe(
        args.weights, positive_m=args.positive, negative_m=args.negative, rounds=args.rounds,
        batches=args.batches, learning_rate=args.learning_rate, seed=args.seed or 0)


def _target(args: argparse.Namespace) -> Path:
    default = Path(f'{Path(args.weights).stem}_{args.adapt[0].stem}.safetensors')
    return args.output or default


def _report(result: Adaptation, target: Path) -> None:
    print(f'{result.images} images trained on, {result.validation_images} of other places to '
          'compare with')
    print_recalls({'before': result.before, 'after': result.after})
    print(f'written: {target}' if result.is_better else
          f'not better: {target} was not written; longer drives, more rounds or another '
          '--learning-rate may help')


def _adapt(args: argparse.Namespace) -> None:
    recipe, target = _recipe(args), _target(args)
    from selavpr_ros.training.adapt import adapt
    from selavpr_ros.training.sources import Source

    bags = [Source(str(bag), 'bag', image_topic=args.topic, pose_topic=args.odom_topic)
            for bag in args.adapt]
    _report(adapt(bags, recipe, target, target.with_suffix('.training'), args.device), target)


def run(args: argparse.Namespace) -> None:
    """Train or adapt."""
    if bool(args.adapt) == bool(args.recipe):
        raise SettingError('give either a recipe or --adapt with bags; see `vpr train --help`')
    (_adapt if args.adapt else _train)(args)
