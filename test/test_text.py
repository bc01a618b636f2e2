from __future__ import annotations

import pytest

from selavpr_ros.text import size, table


@pytest.mark.parametrize(('nbytes', 'text'), [
    (0, '0 bytes'), (999, '999 bytes'), (1000, '1.0 kB'), (1.26e6, '1.3 MB'), (2e9, '2.0 GB')])
def test_sizes_have_the_unit_that_fits(nbytes, text):
    assert size(nbytes) == text


def test_a_table_puts_whole_numbers_to_the_right():
    rows = [('name', 'count', 'note'), ('a', '7', ''), ('longer', '1234567', 'x y')]
    assert table(rows).splitlines() == [
        'name    count    note',
        'a             7',
        'longer  1234567  x y']
