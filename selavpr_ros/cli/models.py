"""List the known systems, or describe or convert a file of weights.

  vpr models
      the systems that can be loaded: which file, where it is, its licence, its figures
  vpr models show SelaVPR_msls.pth
      what a file holds, and what a keyframe costs; also for the built-in systems
  vpr models convert SelaVPR_msls.pth SelaVPR_msls.safetensors
      the same descriptors and the same model id, from a file without pickle and optimizer
  vpr models convert CricaVPR.pth CricaVPR_4096.safetensors --pca pca.npz
      with a PCA in it: numpy.savez('pca.npz', mean=pca.mean_, components=pca.components_)
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavpr_ros.models.catalogue import BUILT_IN, SYSTEMS, System
from selavpr_ros.models.hub import BACKBONES, hub_url
from selavpr_ros.text import size, table

if TYPE_CHECKING:
    from selavpr_ros.models import VprModel
    from selavpr_ros.models.footprint import Footprint

WIDTH = 99
LABEL = 20
DATA_SETS = ('MSLS-val', 'Pitts30k', 'Nordland')
HEADS = (
    ('', 'global', 'local', 'input', 'licence', 'licence', *['recall@1'] * len(DATA_SETS)),
    ('system', 'length', 'features', 'H x W', 'of code', 'of weights', *DATA_SETS),
)

USE = (
    'The parameter model.weights and --weights take the path of such a file, '
    f"{', '.join(system.name for system in BUILT_IN)} or one of timm's names. A file is "
    'recognised by its content, whatever its name: `vpr models show FILE` tells what it is.',
)
NOTES = (
    "Recall@1 in percent as the authors published it; 'a > b' is before and after re-ranking. "
    'Every system has its own protocol, and Nordland several versions: compare with care.',
    *(f'{system.name}: {system.note}' for system in SYSTEMS if system.note),
)
LICENCES = (
    "None of the authors' code is in this package: it has implementations of its own "
    '(Apache-2.0), and reads only the weights; also of SALAD, whose code is GPL-3.0.',
    "Where no licence of the weights is stated, the authors' code is licensed, but not what it "
    'learned: ask the authors before commercial use.',
    'embedded: for most of the images that it was trained on no licence is stated, see '
    'selavpr_ros/weights/README.md.',
)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not above zero')
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `vpr models`."""
    actions = parser.add_subparsers(dest='action', metavar='show | convert')
    show = actions.add_parser('show', help='say what a file of weights holds')
    show.add_argument('file', metavar='FILE',
                      help='checkpoint, or a name that `vpr models` lists')
    convert = actions.add_parser('convert', help='write the weights as a safetensors file')
    convert.add_argument('file', metavar='IN', help='as for show')
    convert.add_argument('target', metavar='OUT.safetensors', type=Path, help='file to write')
    convert.add_argument('--pca', type=Path, metavar='PCA.npz',
                         help='CricaVPR only: put this projection into the file')
    convert.add_argument('--overwrite', action='store_true', help='replace an existing OUT')
    for action in (show, convert):
        action.add_argument('--image-size', type=_positive, nargs=2, metavar=('H', 'W'),
                            help="of the network's input in pixels (default: the system's own)")
        action.add_argument('--num-heads', type=_positive, metavar='N',
                            help='attention heads (default: width / 64, as in published files)')


# ---- vpr models ---------------------------------------------------------------------------------


def _row(system: System) -> tuple[str, ...]:
    height, width = system.image_size
    return (system.name, str(system.global_dim), system.local or '-', f'{height}x{width}',
            system.code_licence, system.weights_licence,
            *(system.recall.get(data_set, '-') for data_set in DATA_SETS))


def _paragraphs(texts: tuple[str, ...]) -> str:
    return '\n'.join(textwrap.fill(text, WIDTH, initial_indent='  ', subsequent_indent='    ')
                     for text in texts)


def _file_row(system: System) -> tuple[str, str, str]:
    has_page = system.source.startswith('https:')
    return f'  {system.name}', system.files, ('' if has_page else 'or by name: ') + system.source


def _list() -> Iterator[str]:
    yield table([*HEADS, *map(_row, (*SYSTEMS, *BUILT_IN))])
    yield '\nFiles'
    yield table([_file_row(system) for system in SYSTEMS])
    yield '\nDINOv2 by its name in timm, downloaded from Meta at the first use'
    yield table([(f'  {name}', hub_url(name)) for name in BACKBONES])
    for heading, texts in {'Use': USE, 'Figures': NOTES, 'Licences': LICENCES}.items():
        yield f'\n{heading}\n{_paragraphs(texts)}'


# ---- vpr models show ----------------------------------------------------------------------------


def _told(facts: dict[str, Any]) -> str:
    """{'images': 8, 'minutes': 42.4} -> 'images 8, minutes 42.4'."""
    def text(value: Any) -> str:
        if isinstance(value, dict):
            return f'({_told(value)})'
        return '/'.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

    return ', '.join(f'{key.strip("_").replace("_", " ")} {text(value)}'
                     for key, value in facts.items())


def _describe_network(model: VprModel, heads_known: bool) -> Iterator[tuple[str, str]]:
    from selavpr_ros.models.families import family_of, sizes_of

    family = family_of(model)
    yield 'family', family.name
    if family.has_weights:
        guessed = family.takes_heads and not heads_known
        doubt = ' (width / 64, as the file does not tell it)' if guessed else ''
        yield 'network', _told(sizes_of(model)) + doubt
        parameters = sum(parameter.numel() for parameter in model.parameters())
        yield 'parameters', f'{parameters:,}, stored in {str(model.dtype).removeprefix("torch.")}'
    yield 'model id', model.model_id
    height, width = model.image_size
    yield 'input', f'{height}x{width} pixels (height x width), resized by {model.resize!r}'


def _describe_footprint(footprint: Footprint) -> Iterator[tuple[str, str]]:
    local = f'{footprint.local_count} x {footprint.local_dim} numbers'
    most = ', at most' if footprint.local_varies else ''
    yield 'global descriptor', f'{footprint.global_dim} numbers'
    yield 'local features', f'{local}{most}' if footprint.local_count else 'none'
    yield 'bytes per keyframe', (
        f'{footprint.keyframe_bytes:,} = global {footprint.global_bytes:,} (float32) + its copy '
        f'in the index {footprint.index_bytes:,} (float16) + local {footprint.local_bytes:,} '
        f'(float16); {size(1000 * footprint.keyframe_bytes)} for 1000 keyframes')


def _describe_origin(model: VprModel, metadata: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if 'source_sha256' in metadata:
        yield 'converted from', f'{metadata["source_name"]}, SHA-256 {metadata["source_sha256"]}'
    if 'training' in metadata:
        yield 'training', _told(metadata['training'])


def _describe_file(path: Path) -> Iterator[tuple[str, str]]:
    from selavpr_ros.models.checkpoints import sha256
    from selavpr_ros.models.file_kinds import is_safetensors

    kind = 'safetensors' if is_safetensors(path) else 'container of torch.save'
    yield 'file', f'{path}, {size(path.stat().st_size)}, {kind}'
    yield 'SHA-256', sha256(path)


def _show(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    from selavpr_ros.models.checkpoints import read_metadata
    from selavpr_ros.models.families import family_of
    from selavpr_ros.models.footprint import measure_footprint
    from selavpr_ros.models.loading import find_weights, read_model

    model = read_model(args.file, args.image_size, args.num_heads, False, None)
    path = find_weights(args.file) if family_of(model).has_weights else None
    metadata = read_metadata(path) if path else {}
    yield from _describe_network(model, bool(args.num_heads or 'num_heads' in metadata))
    yield from _describe_footprint(measure_footprint(model.float()))
    yield from _describe_origin(model, metadata)
    if path:
        yield from _describe_file(path)


def _print_entry(label: str, text: str) -> None:
    print(textwrap.fill(text, WIDTH, initial_indent=label.ljust(LABEL),
                        subsequent_indent=' ' * LABEL, break_long_words=False,
                        break_on_hyphens=False))


# ---- vpr models convert -------------------------------------------------------------------------


def _convert(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    from selavpr_ros.models.checkpoints import sha256
    from selavpr_ros.models.convert import convert

    model = convert(args.file, args.target, image_size=args.image_size, num_heads=args.num_heads,
                    pca=args.pca, overwrite=args.overwrite)
    yield 'written', f'{args.target}, {size(args.target.stat().st_size)}'
    yield 'model id', model.model_id
    if not (args.pca or args.image_size):
        yield '', f'as that of {args.file}: maps made with it stay usable'
    yield 'SHA-256', sha256(args.target)


def run(args: argparse.Namespace) -> None:
    """Print what was asked for."""
    if args.action is None:
        print('\n'.join(_list()))
        return
    args.image_size = tuple(args.image_size) if args.image_size else None
    # Everything comes before the first line: an error must not leave half a description.
    for label, text in list({'show': _show, 'convert': _convert}[args.action](args)):
        _print_entry(label, text)
