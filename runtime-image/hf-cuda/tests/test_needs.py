"""What the package needs of the Python that runs it."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llmpool_hf_cuda.model.loader import card_of
from llmpool_hf_cuda.needs import MODULES

PACKAGE = Path(__file__).parent.parent


def test_needs_are_those_of_the_project() -> None:
    wanted = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [name.replace("-", "_") for name in wanted] == list(MODULES)


def test_says_what_is_missing_without_needing_it() -> None:
    # -S: without the installed packages.
    command = [sys.executable, "-S", "-m", "llmpool_hf_cuda.needs"]
    told = subprocess.run(command, env={"PYTHONPATH": str(PACKAGE / "src")}, capture_output=True, check=True)
    assert json.loads(told.stdout)["missing"] == list(MODULES)


@pytest.mark.parametrize(("instance", "card"), [("0", 0), ("1", 1), ("5", 1), ("code-3", 1), ("code-2", 0)])
def test_instances_take_cards_in_turns(instance: str, card: int) -> None:
    assert card_of(instance, 2) == card
