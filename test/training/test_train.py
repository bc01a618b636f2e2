import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from training_sets import tiny_recipe, write_walks

from selavpr_ros.errors import CheckpointError
from selavpr_ros.training.recipe import Recipe
from selavpr_ros.training.run import train
from selavpr_ros.training.train import learning_rate, make_optimizers

SCRIPT = """
import sys
from pathlib import Path
import torch
from training_sets import tiny_recipe
from selavpr_ros.training.run import train
data, output, changes = Path(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3])
trainer = train(tiny_recipe(**changes), data, output, 'cpu')
if trainer.rank == 0:
    told = {'log': trainer.log, 'recalls': trainer.recalls,
            'weights': trainer.method.model.state_dict()}
    torch.save(told, output / 'done')
"""


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_walks(tmp_path_factory.mktemp('data'))


def start(data, output, *launcher, **changes):
    """Train in another process."""
    here = os.path.dirname(os.path.dirname(__file__))
    paths = os.pathsep.join([here, os.environ.get('PYTHONPATH', '')])
    script = data / 'script.py'
    script.write_text(SCRIPT)
    command = [sys.executable, *launcher, str(script), str(data), str(output), repr(changes)]
    return subprocess.Popen(command, env={**os.environ, 'PYTHONPATH': paths},
                            stderr=subprocess.PIPE, text=True)


def weights(trainer):
    return trainer.method.model.state_dict()


def finish(process, output):
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return torch.load(output / 'done')


def test_a_training_that_was_killed_ends_as_if_it_had_not_been(data, tmp_path):
    """All in processes of their own: the last bit depends on the number of threads."""
    settings = {'rounds': 3, 'batches': 4}
    whole = finish(start(data, tmp_path / 'whole', **settings), tmp_path / 'whole')
    killed = tmp_path / 'killed'
    process = start(data, killed, **settings)
    while process.poll() is None and not (killed / 'checkpoint.pt').exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = finish(start(data, killed, **settings), killed)
    assert resumed['log'] == whole['log']
    assert resumed['recalls'] == whole['recalls']
    for name, tensor in whole['weights'].items():
        assert torch.equal(tensor, resumed['weights'][name]), name


def test_a_checkpoint_inside_a_round_goes_on_with_its_next_batch(data, tmp_path, monkeypatch):
    monkeypatch.setattr('selavpr_ros.training.train.CHECKPOINT_EVERY', 1)
    recipe = tiny_recipe(rounds=1, batches=6, accumulate=2)
    whole = train(recipe, data, tmp_path / 'whole', 'cpu')
    # Stop after the checkpoint of the second optimizer step, as a power cut would.
    monkeypatch.setattr('selavpr_ros.training.train.Trainer._note', stop_at_batch(4))
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, tmp_path / 'cut', 'cpu')
    monkeypatch.undo()
    resumed = train(recipe, data, tmp_path / 'cut', 'cpu')
    assert len(resumed.log) == 6
    assert resumed.log == whole.log


def stop_at_batch(count):
    def note(trainer, terms):
        if len(trainer.log) == count:
            raise KeyboardInterrupt
        trainer.log.append(terms)
    return note


def test_a_finished_training_is_not_done_again(data, tmp_path):
    recipe = tiny_recipe(rounds=1, batches=2)
    first = train(recipe, data, tmp_path, 'cpu')
    again = train(recipe, data, tmp_path, 'cpu')
    assert again.log == first.log


def test_another_recipe_does_not_go_on_with_a_checkpoint(data, tmp_path):
    train(tiny_recipe(rounds=1, batches=2), data, tmp_path, 'cpu')
    with pytest.raises(CheckpointError, match='belongs to another recipe'):
        train(tiny_recipe(rounds=1, batches=2, learning_rate=0.5), data, tmp_path, 'cpu')


def test_a_checkpoint_that_is_damaged_says_what_to_do(data, tmp_path):
    recipe = tiny_recipe(rounds=1, batches=2)
    train(recipe, data, tmp_path, 'cpu')
    path = tmp_path / 'checkpoint.pt'
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match='is damaged: delete it to begin anew'):
        train(recipe, data, tmp_path, 'cpu')


def test_the_best_weights_are_returned_and_patience_ends_the_training(data, tmp_path, monkeypatch):
    scores = iter([0.2, 0.9, 0.5, 0.4, 0.3])
    seen = []

    def judged(self, model):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {'recall@1': next(scores)}

    monkeypatch.setattr('selavpr_ros.training.validation.Validation.__call__', judged)
    trainer = train(tiny_recipe(rounds=5, batches=1, patience=2), data, tmp_path, 'cpu')
    assert len(seen) == 4
    assert trainer.best['recall@1'] == 0.9
    for name, tensor in weights(trainer).items():
        assert torch.equal(tensor, seen[1][name]), name


def test_two_accumulated_batches_are_one_of_twice_the_size(data, tmp_path):
    trainer = train(tiny_recipe(rounds=1, batches=4, accumulate=2), data, tmp_path, 'cpu')
    assert trainer.step == 2
    assert [row['step'] for row in trainer.log] == [0, 0, 1, 1]


def test_two_processes_end_with_the_same_weights(data, tmp_path):
    """The real torchrun, over gloo."""
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    process = start(data, tmp_path / 'run', *launcher, rounds=2, batches=4)
    told = finish(process, tmp_path / 'run')
    assert len(told['log']) == 4  # half of the batches each


def test_the_optimizers_share_the_weights(data):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5))
    for name, count in (('adamw', 1), ('muon', 2)):
        optimizers = make_optimizers(model, Recipe(optimizer=name))
        held = [p for o in optimizers for group in o.param_groups for p in group['params']]
        assert len(optimizers) == count
        assert {id(p) for p in held} == {id(p) for p in model.parameters()}
        assert len(held) == 4
    assert optimizers[1].param_groups[0]['params'] == [model[1].weight]


def test_vectors_do_not_decay():
    model = torch.nn.Linear(4, 5)
    groups = make_optimizers(model, Recipe(weight_decay=0.1))[0].param_groups
    assert [(len(g['params']), g['weight_decay']) for g in groups] == [(1, 0.1), (1, 0.0)]


def test_frozen_weights_are_in_no_optimizer():
    model = torch.nn.Linear(4, 5)
    model.weight.requires_grad_(False)
    groups = make_optimizers(model, Recipe())[0].param_groups
    assert [len(g['params']) for g in groups] == [0, 1]


@pytest.mark.parametrize(('schedule', 'last'), [('constant', 1.0), ('linear', 0.02),
                                                ('cosine', 0.02)])
def test_learning_rates_warm_up_and_follow_their_schedule(schedule, last):
    recipe = replace(Recipe(), schedule=schedule, learning_rate=2.0, warm_up=10)
    assert learning_rate(recipe, 0, 1000) == pytest.approx(0.2, rel=0.01)
    assert learning_rate(recipe, 9, 1000) == pytest.approx(2.0, rel=0.02)
    assert learning_rate(recipe, 999, 1000) == pytest.approx(2.0 * last, rel=0.05)
