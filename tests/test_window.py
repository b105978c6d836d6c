from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.window import SLICES, Window


def test_what_is_older_than_the_window_does_not_count() -> None:
    window = Window(10)
    for at in (0.5, 1.5, 5.5):
        window.add(at)
    assert [window.total(now) for now in (5.5, 9.9, 10.1, 11.1, 15.9, 16.1, 99)] == [
        *(3, 3, 2, 1, 0, 0, 0)
    ]


@given(st.lists(st.floats(0, 40), max_size=60).map(sorted), st.floats(0, 40))
def test_it_is_right_to_within_a_slice(times: list[float], later: float) -> None:
    window, seconds = Window(10), 10
    for at in times:
        window.add(at)
    now = max([later, *times])
    surely = sum(now - at < seconds - seconds / SLICES for at in times)
    at_most = sum(now - at <= seconds for at in times)
    assert surely <= window.total(now) <= at_most
