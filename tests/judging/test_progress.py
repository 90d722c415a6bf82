"""The progress bar."""

import io
import re

import pytest
import tqdm as tqdm_module

from saebench import progress


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    terminal = _Terminal()
    real = tqdm_module.tqdm
    monkeypatch.setattr(
        progress, "tqdm", lambda **kw: real(file=terminal, mininterval=0, ncols=100, **kw)
    )
    return terminal


def test_it_shows_tokens_a_second_and_the_time_left(stderr):
    with progress.progress_bar("two SAEs", 4000) as advance:
        advance(1000)
    last = stderr.getvalue().split("\r")[2]
    assert re.search(r"two SAEs:  25%.* 1\.00k/4\.00k tokens, .*tokens/s, \d\d:\d\d left", last)


def test_nothing_is_shown_where_stderr_is_no_terminal(capsys):
    with progress.progress_bar("two SAEs", 4000) as advance:
        advance(1000)
    assert capsys.readouterr().err == ""
