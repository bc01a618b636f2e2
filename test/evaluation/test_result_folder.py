from __future__ import annotations

import logging

import pytest
import yaml

from selavpr_ros.errors import FolderError
from selavpr_ros.evaluation.result_folder import log_to, make_folder, versions, write_settings
from selavpr_ros.recordings.param_file import read_params
from selavpr_ros.settings import Settings, make_settings


def test_settings_can_be_used_again(tmp_path):
    settings = make_settings({'index.top_k': 3, 'model.input_size': [48, 64]})
    path = tmp_path / 'settings.yaml'
    write_settings(path, settings, {'bag': 'Büro.bag', 'versions': versions()})
    assert make_settings(read_params(path)) == settings
    assert path.read_text(encoding='utf-8').startswith('# bag: Büro.bag\n# versions:\n')
    parameters = yaml.safe_load(path.read_text(encoding='utf-8'))['/**']['ros__parameters']
    assert set(parameters) == set(Settings().flat())


@pytest.mark.parametrize('text', ['y', 'No', '1e3', '010', '08', '.5', 'inf', 'null', '5', "it's"])
def test_a_text_that_looks_like_something_else_stays_a_text(tmp_path, text):
    settings = make_settings({'map.path': text})
    write_settings(tmp_path / 'settings.yaml', settings, {})
    assert make_settings(read_params(tmp_path / 'settings.yaml')) == settings


def test_versions_name_what_computes():
    assert {'selavpr_ros', 'python', 'torch', 'faiss', 'numpy', 'cv2'} <= set(versions())


def test_the_folder_must_be_new_or_empty(tmp_path):
    assert make_folder(tmp_path / 'a' / 'b').is_dir()
    make_folder(tmp_path / 'a' / 'b')
    with pytest.raises(FolderError, match='a is not empty: choose another folder, or pass --over'):
        make_folder(tmp_path / 'a')
    make_folder(tmp_path / 'a', overwrite=True)
    (tmp_path / 'file').write_text('')
    with pytest.raises(FolderError, match='file cannot take the results: File exists'):
        make_folder(tmp_path / 'file', overwrite=True)


def test_the_log_belongs_to_the_package_and_ends(tmp_path):
    logger = logging.getLogger('selavpr_ros.somewhere')
    with log_to(tmp_path / 'log.txt'):
        logger.info('inside')
        logging.getLogger('other').error('not ours')
    logger.error('outside')
    assert (tmp_path / 'log.txt').read_text().endswith('INFO selavpr_ros.somewhere: inside\n')
    assert logging.getLogger('selavpr_ros').handlers == []
