import pytest
import torch

import lib_pm.core.methods  # noqa: F401 (registers the modes)
from lib_pm.core.errors import MergeInputError
from lib_pm.core.memo import Content
from lib_pm.core.params import Density
from lib_pm.core.registry import METHODS, MODES, find_mode, merge_method
from tests.messages import saying

NAMES = {
    "concat", "add", "ties", "dare_linear", "dare_ties", "magnitude_prune",
    "add_svd", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd",
}  # fmt: skip


def register(function, id="new"):
    return merge_method(id, title="T", formula="F", when="W", source="S")(function)


def test_the_modes_are_the_promised_ones_and_concat_comes_first():
    assert set(MODES) == NAMES
    assert next(iter(MODES)) == "concat"


def test_every_mode_is_described():
    for mode in MODES.values():
        assert mode.title
        assert mode.method.formula
        assert mode.when
        assert mode.method.source


def test_the_function_is_returned_unchanged():
    def method(deltas, weights, *, density: Density = 0.5):
        """Sum."""
        return deltas.sum(0)

    try:
        assert register(method) is method
        assert MODES["new_svd"].options.keys() == {"density", "svd_rank", "svd_conv_rank", "lambda"}
        assert MODES["new"].options.keys() == {"density", "lambda"}
    finally:
        for table, id in ((METHODS, "new"), (MODES, "new"), (MODES, "new_svd")):
            table.pop(id, None)


def no_docstring(deltas, weights):
    return deltas


def undeclared(deltas, weights, *, density: float = 0.5):
    """Undeclared."""


def no_default(deltas, weights, *, density: Density):
    """No default."""


def wrong_stack(tensors, weights):
    """Wrong name."""


@pytest.mark.parametrize(
    ("function", "id", "message"),
    [
        (no_docstring, "new", "no docstring"),
        (undeclared, "new", "'density' of undeclared is undeclared"),
        (no_default, "new", "no default"),
        (wrong_stack, "new", "should take"),
        (wrong_stack, "ties", "registered twice"),
    ],
)
def test_a_method_that_is_not_declared_well_is_refused_at_import(function, id, message):
    with pytest.raises(TypeError, match=message):
        register(function, id)
    assert "new" not in METHODS


def test_an_unknown_mode_lists_all():
    with pytest.raises(MergeInputError, match=saying("mode 'tis' … concat, … magnitude_prune_svd")):
        find_mode("tis")


@pytest.mark.parametrize(
    ("mode", "given", "facts"),
    [
        ("ties", {"density": 2}, "density … 2 … a number … 0 … 1"),
        ("ties", {"density": "half"}, "density … 'half' … a number … 0 … 1"),
        ("ties", {"density": float("nan")}, "density … nan … a number … 0 … 1"),
        ("ties", {"density": None}, "density … None … a number … 0 … 1"),
        ("ties_svd", {"svd_rank": 0}, "svd_rank … 0 … a whole number … 1"),
        ("ties_svd", {"rank": 2.5}, "svd_rank … 2.5 … a whole number … 1"),
        ("ties_svd", {"svd_rank": "2.5"}, "svd_rank … '2.5' … a whole number … 1"),
        ("ties_svd", {"svd_conv_rank": -1}, "svd_conv_rank … -1 … a whole number … 0 … empty"),
        ("dare_ties", {"seed": -1}, "seed … -1 … a whole number … 0"),
        ("concat", {"lambda": float("inf")}, "lambda … inf … a number"),
        (
            "add_svd",
            {"rank": 4, "svd_rank": 9},
            "rank … svd_rank … same option … add_svd … one",
        ),
        ("ties", {"densty": 0.5}, "ties … 'densty' … density, lambda. … density"),
        ("add_svd", {"conv_rnk": 4}, "add_svd … 'conv_rnk' … conv_rank"),
        ("concat", {"lambda": -1e7}, "lambda … -10000000.0 … a number … -1000000 … 1000000"),
        ("add_svd", {"rank": 10**400}, "svd_rank … a whole number … 1 … full … 18 digits"),
        ("add_svd", {"rank": -(10**5000)}, "svd_rank … thousands of digits … a whole number … 1 … full"),
        ("concat", {"density": 0.5}, "concat … 'density' … lambda"),
        ("ties_svd", {"sed": 1}, "ties_svd … 'sed' … density, svd_rank, svd_conv_rank, lambda"),
    ],
)
def test_a_bad_option_says_what_is_allowed(mode, given, facts):
    with pytest.raises(MergeInputError, match=saying(facts)):
        MODES[mode].values(given)


def test_values_come_in_their_types_with_defaults_and_short_names():
    values = MODES["dare_ties_svd"].values({"density": "0.25", "rank": "8", "seed": str(2**62 + 1)})
    assert values == {
        "density": 0.25, "seed": 2**62 + 1, "svd_rank": 8, "svd_conv_rank": None, "lambda": 1.0,
    }  # fmt: skip
    assert MODES["ties_svd"].values({"conv_rank": 0})["svd_conv_rank"] == 0
    assert MODES["ties_svd"].values({"conv_rank": ""})["svd_conv_rank"] is None


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.id)
def test_methods_repeat_themselves_and_keep_shape_and_dtype(method):
    """They may write over their stack, and over nothing else."""
    deltas, weights = torch.randn(3, 4, 5), torch.tensor([1.0, -0.5, 2.0])
    before, contents = weights.clone(), [Content(b"a"), Content(b"b"), Content(b"c")]
    values = {name: option.default for name, option in method.options.items()}
    result, again = (method(deltas.clone(), weights, contents, values) for _ in range(2))
    assert result.shape == (4, 5)
    assert result.dtype == torch.float32
    assert torch.equal(result, again)
    assert torch.equal(weights, before)
    assert [content.digest for content in contents] == [b"a", b"b", b"c"]
