"""`vpr models`: the table, what it tells of a file, and files that are converted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from selavpr_ros.cli.main import main
from selavpr_ros.models import convert, load_model
from selavpr_ros.models.catalogue import BUILT_IN, SYSTEMS
from selavpr_ros.models.footprint import measure_footprint
from selavpr_ros.models.hub import BACKBONES, hub_url

FAMILIES = tuple(tiny_checkpoints.SIZES)
HEADS = ['--num-heads', str(tiny_checkpoints.HEADS)]


def published(folder: Path, family: str) -> Path:
    return tiny_checkpoints.write(folder / f'{family}.pth', tiny_checkpoints.make(family))


def options(family: str) -> list[str]:
    return [*HEADS, '--image-size', *map(str, tiny_checkpoints.IMAGE_SIZES[family])]


def metadata(path: Path) -> dict[str, object]:
    with safe_open(path, 'pt') as file:
        return json.loads(file.metadata()['selavpr_ros'])


def described(output: str) -> dict[str, str]:
    """What `vpr models show` printed, by label."""
    entries: dict[str, str] = {}
    for line in output.splitlines():
        label = line[:20].strip() or label  # noqa: F821
        entries[label] = f'{entries.get(label, "")} {line[20:]}'.strip()
    return entries


def show(capsys, *words: object) -> dict[str, str]:
    assert main(['models', 'show', *map(str, words)]) == 0
    return described(capsys.readouterr().out)


def assert_same_descriptors(model, other):
    """The same weights, bit by bit, and the same descriptors.

    The descriptors may differ in the last bits: weights that lie at another alignment in memory
    take another kernel on some processors.
    """
    tensors = other.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name
    image = torch.randn(1, 3, *model.image_size, generator=torch.Generator().manual_seed(0))
    one, two = model(image), other(image)
    close = {'rtol': 0.0, 'atol': 2e-6}
    torch.testing.assert_close(one.global_descriptor, two.global_descriptor, **close)
    assert (one.local_features is None) == (two.local_features is None)
    if one.local_features is not None:
        torch.testing.assert_close(one.local_features, two.local_features, **close)


# ---- the table ----------------------------------------------------------------------------------


def test_the_table_names_every_system_file_and_page(capsys):
    assert main(['models']) == 0
    output = capsys.readouterr().out
    for system in SYSTEMS:
        facts, files = (line for line in output.splitlines()
                        if line.strip().startswith(f'{system.name}  '))
        for fact in (str(system.global_dim), system.local, system.code_licence,
                     system.weights_licence, *system.recall.values()):
            assert fact in facts
        assert system.files in files
        assert system.source in files
    for name in BACKBONES:
        assert f'{name}  ' in output
        assert hub_url(name) in output
    assert 'GPL-3.0' in output
    assert 'ask the authors before' in output


def test_the_table_fits_a_terminal(capsys):
    main(['models'])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


def test_the_table_waits_for_nothing_heavy():
    code = ("import sys; from selavpr_ros.cli.main import main; main(['models'])\n"
            "sys.exit(str({'torch', 'timm', 'numpy', 'cv2', 'faiss'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stderr == 'set()\n'
    assert 'SelaVPR_msls.pth' in done.stdout


def test_who_reads_the_table_may_stop_early():
    vpr = subprocess.Popen([sys.executable, '-m', 'selavpr_ros.cli.main', 'models'],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    vpr.stdout.close()
    assert vpr.stderr.read() == ''
    assert vpr.wait() == 0


@pytest.mark.parametrize('name', BACKBONES)
def test_backbones_are_where_timm_has_them(name):
    timm = pytest.importorskip('timm')
    assert hub_url(name) == timm.get_pretrained_cfg(f'{name}.lvd142m').url


@pytest.mark.parametrize('row', BUILT_IN, ids=lambda row: row.name)
def test_rows_of_the_built_in_models_are_true(row):
    model = load_model(row.name)
    footprint = measure_footprint(model)
    assert model.family == row.family
    assert model.image_size == row.image_size
    assert footprint.global_dim == row.global_dim
    assert f'{footprint.local_count} x {footprint.local_dim}' == row.local


# ---- show ---------------------------------------------------------------------------------------


def test_show_tells_all_of_the_embedded_model(capsys):
    told = show(capsys, 'embedded')
    assert told['family'] == 'selavpr'
    assert told['network'] == ('width 320, depth 3, adapter hidden 64, local hidden 128, '
                               'local dim 128, registers 0, conv stem True, num heads 5')
    assert told['parameters'] == '7,415,281, stored in float16'
    assert told['model id'] == load_model('embedded').model_id
    assert told['input'].startswith('224x224')
    assert told['global descriptor'] == '320 numbers'
    assert told['local features'] == '961 x 128 numbers'
    assert told['bytes per keyframe'].startswith(f'{320 * 6 + 961 * 128 * 2:,} = ')
    assert 'images 9376' in told['training']
    assert len(told['SHA-256']) == 64
    assert told['file'].endswith('embedded.safetensors, 14.9 MB, safetensors')


def test_show_tells_that_hog_has_no_file(capsys):
    told = show(capsys, 'hog')
    assert told['family'] == 'hog'
    assert told['local features'] == '999 x 128 numbers'
    assert {'network', 'parameters', 'file', 'SHA-256'}.isdisjoint(told)


@pytest.mark.parametrize('family', FAMILIES)
def test_show_tells_the_sizes_of_every_family(family, tmp_path, capsys):
    path = published(tmp_path, family)
    told = show(capsys, path, *options(family))
    model = load_model(path, num_heads=tiny_checkpoints.HEADS,
                       image_size=tiny_checkpoints.IMAGE_SIZES[family])
    assert told['family'] == family
    assert 'width 64, depth 2' in told['network']
    assert told['network'].endswith('num heads 4')
    assert told['model id'] == model.model_id
    assert told['SHA-256'].startswith(model.fingerprint)
    assert told['file'].endswith('container of torch.save')
    assert ('at most' in told['local features']) == (family == 'fol')
    assert (told['local features'] == 'none') == (model.max_local_features == 0)


def test_show_tells_that_the_number_of_heads_was_not_in_the_file(tmp_path, capsys):
    path = published(tmp_path, 'dinov2_gem')
    assert show(capsys, path)['network'].endswith(
        'num heads 1 (width / 64, as the file does not tell it)')
    assert show(capsys, path, *HEADS)['network'].endswith('num heads 4')


def test_show_of_another_network_is_one_line(tmp_path, capsys):
    path = tmp_path / 'resnet.pth'
    torch.save({'conv1.weight': torch.zeros(64, 3, 7, 7)}, path)
    assert main(['models', 'show', str(path)]) == 1
    output = capsys.readouterr()
    assert output.out == ''
    assert len(output.err.splitlines()) == 1
    assert 'not a checkpoint of any known system' in output.err


def test_show_of_something_else_does_not_advise_to_load_it_unsafely(tmp_path, capsys):
    path = tmp_path / 'notes.pth'
    path.write_text('hello')
    assert main(['models', 'show', str(path)]) == 1
    error = capsys.readouterr().err
    assert "cannot be read as a checkpoint (it is a text that begins with 'hello'" in error
    assert 'weights_only' not in error


@pytest.mark.parametrize('size', [('16', '16'), ('225', '224')])
def test_show_refuses_a_size_that_does_not_fit(size, capsys):
    assert main(['models', 'show', 'hog', '--image-size', *size]) == 1
    assert 'hog takes image' in capsys.readouterr().err


def test_numbers_have_to_be_above_zero(capsys):
    with pytest.raises(SystemExit):
        main(['models', 'show', 'embedded', '--num-heads', '0'])
    assert '0 is not above zero' in capsys.readouterr().err


@pytest.mark.parametrize('told', [
    [], {'num_heads': '4'}, {'image_size': [224]}, {'image_size': ['a', 'b']},
    {'source_name': 3}])
def test_broken_metadata_are_one_line(told, tmp_path, capsys):
    path = tmp_path / 'strange.safetensors'
    state = tiny_checkpoints.published_state(tiny_checkpoints.make('dinov2_gem'))
    save_file(state, path, {'selavpr_ros': json.dumps(told)})
    assert main(['models', 'show', str(path)]) == 1
    error = capsys.readouterr().err
    assert 'strange.safetensors: cannot be read as a checkpoint (its metadata' in error


# ---- convert ------------------------------------------------------------------------------------


@pytest.mark.parametrize('family', FAMILIES)
def test_a_converted_file_gives_the_same_descriptors(family, tmp_path, capsys):
    path, target = published(tmp_path, family), tmp_path / 'other_name.safetensors'
    assert main(['models', 'convert', str(path), str(target), *options(family)]) == 0
    original = load_model(path, num_heads=tiny_checkpoints.HEADS,
                          image_size=tiny_checkpoints.IMAGE_SIZES[family])
    converted = load_model(target)
    assert described(capsys.readouterr().out)['model id'] == original.model_id
    assert converted.model_id == original.model_id
    assert_same_descriptors(original, converted)
    assert set(tmp_path.iterdir()) == {path, target}


@pytest.mark.parametrize('family', FAMILIES)
def test_a_converted_file_has_the_published_names(family, tmp_path):
    path, target = published(tmp_path, family), tmp_path / 'a.safetensors'
    main(['models', 'convert', str(path), str(target), *options(family)])
    with safe_open(target, 'pt') as file:
        names = set(file.keys())
    wanted = set(tiny_checkpoints.published_state(tiny_checkpoints.make(family), prefix=''))
    assert names - wanted <= {'aggregation.p'}
    assert wanted <= names


def test_a_converted_file_tells_where_it_comes_from(tmp_path, capsys):
    path, target = published(tmp_path, 'salad'), tmp_path / 'a.safetensors'
    main(['models', 'convert', str(path), str(target), *options('salad')])
    capsys.readouterr()
    told = show(capsys, target)
    fingerprint = load_model(path, num_heads=4).fingerprint
    assert told['converted from'] == f'salad, SHA-256 {fingerprint}'
    assert told['SHA-256'] != fingerprint
    assert told['file'].endswith('safetensors')
    assert told['network'].endswith('num heads 4')
    facts = metadata(target)
    assert (facts['family'], facts['num_heads'], facts['resize']) == ('salad', 4, 'pillow')
    assert facts['model_id'] == told['model id']


def test_converting_again_keeps_the_identity(tmp_path):
    path = published(tmp_path, 'selavpr')
    first, second = tmp_path / 'a.safetensors', tmp_path / 'b.safetensors'
    main(['models', 'convert', str(path), str(first), *options('selavpr')])
    assert main(['models', 'convert', str(first), str(second)]) == 0
    assert load_model(second).model_id == load_model(first).model_id
    assert metadata(second) == metadata(first)
    assert second.read_bytes() == first.read_bytes()


def test_the_embedded_model_keeps_its_precision_and_what_it_tells(tmp_path):
    target = tmp_path / 'e.safetensors'
    assert main(['models', 'convert', 'embedded', str(target)]) == 0
    embedded, converted = load_model('embedded'), load_model(target)
    assert converted.model_id == embedded.model_id
    assert metadata(target)['training']['images'] == 9376
    assert target.stat().st_size < 15e6
    assert_same_descriptors(embedded, converted)


def test_a_file_can_be_converted_onto_itself(tmp_path):
    target = tmp_path / 'e.safetensors'
    main(['models', 'convert', 'embedded', str(target)])
    before = target.read_bytes()
    assert main(['models', 'convert', str(target), str(target), '--overwrite']) == 0
    assert target.read_bytes() == before


def test_others_may_read_the_file_as_any_new_one(tmp_path):
    plain, target = tmp_path / 'plain', tmp_path / 'e.safetensors'
    plain.touch()
    main(['models', 'convert', 'embedded', str(target)])
    assert target.stat().st_mode == plain.stat().st_mode


@pytest.fixture
def pca(tmp_path):
    path = tmp_path / 'pca.npz'
    random = np.random.default_rng(0)
    np.savez(path, mean=random.normal(size=14 * 64), components=random.normal(size=(8, 14 * 64)))
    return path


def test_a_projection_goes_into_the_file(tmp_path, pca, capsys):
    path, target = published(tmp_path, 'cricavpr'), tmp_path / 'short.safetensors'
    assert main(['models', 'convert', str(path), str(target), '--pca', str(pca), *HEADS]) == 0
    assert 'maps made with it' not in capsys.readouterr().out
    original, converted = load_model(path, num_heads=4, pca=pca), load_model(target)
    assert converted.model_id == original.model_id
    assert converted.name == 'cricavpr+pca8'
    assert_same_descriptors(original, converted)
    assert 'pca dim 8' in show(capsys, target)['network']


def test_a_second_projection_is_refused(tmp_path, pca, capsys):
    path, target = published(tmp_path, 'cricavpr'), tmp_path / 'short.safetensors'
    main(['models', 'convert', str(path), str(target), '--pca', str(pca), *HEADS])
    again = ['models', 'convert', str(target), str(tmp_path / 'b.safetensors'), '--pca', str(pca)]
    assert main(again) == 1
    assert 'cricavpr+pca8 has a projection already' in capsys.readouterr().err


def test_a_projection_of_another_system_is_refused(tmp_path, pca, capsys):
    assert main(['models', 'convert', 'embedded', str(tmp_path / 'e.safetensors'),
                 '--pca', str(pca)]) == 1
    assert 'pca are for cricavpr, this is selavpr' in capsys.readouterr().err


@pytest.mark.parametrize(('source', 'target', 'words'), [
    ('embedded', 'e.pth', "e.pth: the name of a converted file ends in '.safetensors'"),
    ('embedded', 'none/e.safetensors', 'there is no folder'),
    ('hog', 'h.safetensors', "'hog' has no weights that could be converted"),
    ('none.pth', 'n.safetensors', 'none.pth: no such file'),
])
def test_what_cannot_be_converted_is_one_line(source, target, words, tmp_path, capsys):
    assert main(['models', 'convert', source, str(tmp_path / target)]) == 1
    output = capsys.readouterr()
    assert output.out == ''
    assert len(output.err.splitlines()) == 1
    assert words in output.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_only_when_asked(tmp_path, capsys):
    target = tmp_path / 'e.safetensors'
    target.write_text('precious')
    assert main(['models', 'convert', 'embedded', str(target)]) == 1
    assert 'exists already: choose another name or pass --overwrite' in capsys.readouterr().err
    assert target.read_text() == 'precious'
    assert main(['models', 'convert', 'embedded', str(target), '--overwrite']) == 0
    assert load_model(target).family == 'selavpr'


def test_a_folder_is_not_replaced(tmp_path, capsys):
    target = tmp_path / 'e.safetensors'
    target.mkdir()
    assert main(['models', 'convert', 'embedded', str(target), '--overwrite']) == 1
    assert 'cannot be written (Is a directory)' in capsys.readouterr().err
    assert list(tmp_path.rglob('*')) == [target]


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    """A limit on the size of files stands for the end of the disk."""
    target = tmp_path / 'e.safetensors'
    target.write_text('precious')
    code = ('import resource, sys; from selavpr_ros.cli.main import main\n'
            'resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n'
            f"sys.exit(main(['models', 'convert', 'embedded', {str(target)!r}, '--overwrite']))")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, '')
    assert 'e.safetensors: cannot be written (' in done.stderr
    assert 'File too large' in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert target.read_text() == 'precious'
    assert list(tmp_path.iterdir()) == [target]


def test_an_interruption_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    def interrupted(tensors, path, told):
        Path(path).write_bytes(b'half')
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, 'save_file', interrupted)
    assert main(['models', 'convert', 'embedded', str(tmp_path / 'e.safetensors')]) == 130
    assert capsys.readouterr().err == 'vpr models: interrupted\n'
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_back_differently_gets_no_name(tmp_path, monkeypatch, capsys):
    def damaging(tensors, path, told):
        tensors['aggregation.1.p'] += 1e-3
        save_file(tensors, path, told)

    monkeypatch.setattr(convert, 'save_file', damaging)
    assert main(['models', 'convert', 'embedded', str(tmp_path / 'e.safetensors')]) == 1
    assert 'not written' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class _Hostile:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_is_not_converted(tmp_path, capsys):
    path, proof = tmp_path / 'hostile.pth', tmp_path / 'was_here'
    torch.save({'model_state_dict': _Hostile(proof)}, path)
    assert main(['models', 'convert', str(path), str(tmp_path / 'a.safetensors')]) == 1
    assert 'wants to run' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
