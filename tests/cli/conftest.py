"""Running the command in this process, and the zoo and Hub of the tests of the zoo."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from snntorch_smixer.cli.main import main
from tests.zoo.conftest import hub as hub
from tests.zoo.conftest import online as online
from tests.zoo.conftest import own_zoo as own_zoo
from tests.zoo.conftest import save_model as save_model


class Ran(NamedTuple):
    """What a command printed."""

    out: str
    err: str


@pytest.fixture
def smixer(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs the command with these words, and fails unless its exit code is ``code``."""

    def run(*words: object, code: int = 0) -> Ran:
        got = main([str(word) for word in words])
        shown = capsys.readouterr()
        assert got == code, shown.err
        assert "Traceback" not in shown.err
        assert code != 2 or shown.out == ""
        return Ran(*shown)

    return run
