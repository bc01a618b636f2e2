"""The teacher, with random weights of its network: no download."""

import pytest
import torch
from models_support import pictures

from selavpr_ros.models.conv_stem import ConvStem
from selavpr_ros.models.families.selavpr import SelaVPR
from selavpr_ros.training.teacher import Teacher

WIDTH, DIM, SIDE = 32, 16, 112


@pytest.fixture(scope='module')
def teacher():
    torch.manual_seed(0)
    made = Teacher(ConvStem(WIDTH), DIM)
    made.fit(pictures(20))
    return made


def test_the_students_stem_stays_as_it_is(teacher):
    stem = ConvStem(WIDTH)
    before = stem.proj.weight.clone()
    Teacher(stem, DIM).fit(pictures(4))
    assert torch.equal(stem.proj.weight, before)
    assert stem.proj.weight.requires_grad


def test_a_student_with_the_teachers_stem_begins_with_its_descriptors(teacher):
    model = SelaVPR(width=WIDTH, depth=1, num_heads=2, adapter_hidden=8, local_hidden=8,
                    local_dim=DIM, conv_stem=True).eval()
    backbone = model.backbone
    backbone.patch_embed.load_state_dict(teacher.stem.state_dict())
    torch.nn.init.zeros_(backbone.pos_embed)
    for last in (backbone.blocks[0].attn.wrapped.proj, backbone.blocks[0].mlp.wrapped.fc2):
        torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        found = model(pictures(3, seed=1)).global_descriptor
    torch.testing.assert_close(found, teacher(pictures(3, seed=1))[1], atol=1e-5, rtol=0)


# ---- targets ------------------------------------------------------------------------------------


def assert_unit(rows):
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(rows.shape[:-1]))


@pytest.mark.parametrize('side', [SIDE, 140])
def test_targets_are_unit_rows_on_the_students_grids(teacher, side):
    tokens, descriptor, local = teacher(pictures(3, side, side))
    patches = side // 14
    assert tokens.shape == (3, patches, patches, WIDTH)
    assert descriptor.shape == (3, WIDTH)
    assert local.shape == (3, (4 * patches - 3) ** 2, DIM)
    for rows in (tokens, descriptor, local):
        assert_unit(rows)
        assert not rows.requires_grad
    assert local.min() < 0
    # GeM counts negative values as nothing: a component and its opposite have a channel each.
    above, below = tokens.chunk(2, dim=-1)
    assert tokens.min() == 0
    assert above.max() > 0.1
    assert below.max() > 0.1
    assert (above * below == 0).all()


def test_targets_do_not_depend_on_the_batch_nor_on_the_state(teacher):
    images = pictures(5, seed=1)
    together = teacher(images)
    state = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    teacher.train()
    for alone, expected in zip(teacher(images[2:3]), together, strict=True):
        torch.testing.assert_close(alone, expected[2:3], atol=1e-4, rtol=0)
    for key, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, state[key]), key


def test_other_images_have_other_targets(teacher):
    tokens, descriptor, local = teacher(pictures(2, seed=2))
    assert (tokens[0] * tokens[1]).sum(dim=-1).mean() < 0.99
    assert (local[0] * local[1]).sum(dim=-1).mean() < 0.99
    assert descriptor[0] @ descriptor[1] < 0.999


def test_a_target_belongs_to_its_patch(teacher):
    """What moves by two patches moves by eight local features, too."""
    wide = pictures(1, SIDE + 28, SIDE + 28, seed=3)
    first, second = wide[..., :SIDE, :SIDE], wide[..., 28:, 28:]
    grid = 4 * (SIDE // 14) - 3
    before, after = (teacher(part)[2][0].unflatten(0, (grid, grid)) for part in (first, second))
    inner = slice(8, grid - 12)
    shifted = before[16:grid - 4, 16:grid - 4]
    likeness = (shifted * after[8:grid - 12, 8:grid - 12]).sum(dim=-1).mean()
    unmoved = (before[inner, inner] * after[inner, inner]).sum(dim=-1).mean()
    assert likeness > unmoved + 0.2


def test_nothing_of_the_teacher_is_trained_and_its_state_can_be_kept(teacher):
    assert not any(p.requires_grad for p in teacher.parameters())
    other = Teacher(ConvStem(WIDTH), DIM)
    other.load_state_dict(teacher.state_dict())
    images = pictures(1, seed=4)
    for found, expected in zip(other(images), teacher(images), strict=True):
        assert torch.equal(found, expected)
