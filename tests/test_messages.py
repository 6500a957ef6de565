"""The helper that reads messages: it has to be able to say no."""

from __future__ import annotations

import pytest

from tests.messages import says

MESSAGE = "style: density is '2'; allowed: a number from 0 to 1."


@pytest.mark.parametrize("facts", ["style", "density … '2' … 0 … 1", "style … density", "density is '2'", "0 … 1"])
def test_what_is_said(facts: str) -> None:
    assert says(MESSAGE, facts)
    assert says(ValueError(MESSAGE), facts)


@pytest.mark.parametrize(
    "facts", ["stile", "1 … 0", "'2' … density", "style … style", "ensity", "densit", "from 0 to 10"]
)
def test_what_is_not_said(facts: str) -> None:
    assert not says(MESSAGE, facts)


@pytest.mark.parametrize("message", ["20", "12", "2.5", "1.2", "-0,2", "2nd", "x2"])
def test_a_number_is_a_whole_one(message: str) -> None:
    assert not says(message, "2")
    assert says(f"{message} 2.", "2")


@pytest.mark.parametrize("facts", ["", " ", "a …  … b"])
def test_no_fact_is_a_mistake(facts: str) -> None:
    with pytest.raises(AssertionError):
        says("a b", facts)
