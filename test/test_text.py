from __future__ import annotations

import pytest

from selavpr_ros.text import date, flatten, line, markdown_table, nearest, size, table


@pytest.mark.parametrize(('nbytes', 'text'), [
    (0, '0 bytes'), (999, '999 bytes'), (1000, '1.0 kB'), (1.26e6, '1.3 MB'), (2e9, '2.0 GB')])
def test_sizes_have_the_unit_that_fits(nbytes, text):
    assert size(nbytes) == text


def test_a_date_is_in_utc():
    assert date(1_796_061_257_055_640_010) == '2026-11-30 17:54:17'


def test_a_misspelt_name_is_told_the_nearest():
    names = ['pose_source', 'gates.max_drift']
    assert nearest('max_drift', names) == ": do you mean 'gates.max_drift'?"
    assert nearest('foo', names) == ''


def test_a_table_puts_whole_numbers_to_the_right():
    rows = [('name', 'count', 'note'), ('a', '7', ''), ('longer', '1234567', 'x y')]
    assert table(rows).splitlines() == [
        'name    count    note',
        'a             7',
        'longer  1234567  x y']


def test_a_table_puts_numbers_to_the_right_after_its_texts():
    rows = [('name', 'note', 'share'), ('a', '7', '0.5'), ('longer', 'x', '-')]
    assert table(rows, texts=2).splitlines() == [
        'name    note  share',
        'a       7       0.5',
        'longer  x         -']


def test_a_line_of_a_table_that_grows():
    assert line(('a', '7', 'note'), (6, 3, 0), texts=1) == 'a         7  note'
    assert line(('a', '7', ''), (6, 3, 0), texts=1) == 'a         7'


def test_a_table_in_markdown():
    assert markdown_table([('a', 'b'), ('x', '1')], texts=1) == (
        '| a | b |\n| --- | ---: |\n| x | 1 |\n')


def test_nested_settings_have_dotted_names():
    tree = {'set': {'name': 'half', 'of': {'all': True}}, 'seed': 3}
    assert list(flatten(tree)) == [('set.name', 'half'), ('set.of.all', 'True'), ('seed', '3')]
