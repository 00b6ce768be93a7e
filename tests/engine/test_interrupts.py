"""Interrupts: what Ctrl-C does within the block, and which signal handlers stay in place."""

import signal
import threading

import pytest

from portnet.engine.interrupts import interrupts


@pytest.mark.usefixtures("default_sigint_handler")
def test_first_ctrl_c_is_noted_and_the_second_raises():
    with interrupts() as pressed:
        assert pressed == []
        signal.raise_signal(signal.SIGINT)
        assert pressed == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("default_sigint_handler")
def test_handler_is_restored_after_an_error_and_after_nested_blocks():
    with pytest.raises(ZeroDivisionError), interrupts():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interrupts() as outer, interrupts() as inner:
        signal.raise_signal(signal.SIGINT)
    assert (outer, inner) == ([signal.SIGINT], [])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("default_sigint_handler")
def test_handler_of_the_user_stays_in_place():
    seen = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    with interrupts() as pressed:
        signal.raise_signal(signal.SIGINT)
    assert (pressed, seen) == ([], [signal.SIGINT])


@pytest.mark.usefixtures("default_sigint_handler")
def test_block_in_a_thread_leaves_the_handler_in_place():
    found = []

    def enter():
        with interrupts():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
