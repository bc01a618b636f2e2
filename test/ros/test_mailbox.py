import threading

from live import wait_until

from selavpr_ros.ros.mailbox import Mailbox


def test_a_new_item_replaces_the_old_one():
    mailbox = Mailbox()
    assert mailbox.put('first') is None
    assert mailbox.put('second') == 'first'
    assert mailbox.take() == 'second'
    assert mailbox.put('third') is None


def test_take_waits_for_an_item():
    mailbox, taken = Mailbox(), []
    thread = threading.Thread(target=lambda: taken.append(mailbox.take()))
    thread.start()
    mailbox.put('late')
    thread.join(60.0)
    assert taken == ['late']


def test_a_closed_mailbox_lets_nobody_wait():
    mailbox, taken = Mailbox(), []
    thread = threading.Thread(target=lambda: taken.append(mailbox.take()))
    thread.start()
    mailbox.close()
    wait_until(lambda: taken == [None], 'take to return')
    mailbox.put('too late')
    assert mailbox.take() is None
