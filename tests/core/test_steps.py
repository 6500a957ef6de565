import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mergekit.merge_methods.generalized_task_arithmetic import get_mask
from mergekit.sparsify import magnitude
from peft.utils import merge_utils as peft

from lib_pm.core.memo import Content
from lib_pm.core.rng import RandomBits
from lib_pm.core.steps import (
    drop_random_,
    elect_and_average_,
    elect_sign,
    keep_largest_,
    kth_largest,
    mean_of_agreeing_,
    weighted,
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
A, B = Content(b"a"), Content(b"b")


def stack(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=60), st.data())
def test_kth_largest_is_what_sorting_finds(values, data):
    k = data.draw(st.integers(1, len(values)))
    magnitudes = sorted((abs(value) for value in torch.tensor(values).tolist()), reverse=True)
    threshold, at_least = kth_largest(torch.tensor(values), k)
    assert float(threshold) == magnitudes[k - 1]
    assert at_least == sum(magnitude >= threshold for magnitude in magnitudes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_kth_largest_in_every_dtype(dtype):
    values = stack(300_000).to(dtype)
    threshold, at_least = kth_largest(values, 70_000)
    assert threshold == values.abs().sort(descending=True).values[69_999]
    assert at_least == int((values.abs() >= threshold).sum())


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_stacks_go_through_in_blocks_with_the_same_result(dtype):
    deltas, weights = stack(2, 401, 977).to(dtype), torch.tensor([1.0, -0.6], dtype=dtype)
    kept = keep_largest_(deltas.clone(), 0.3)
    assert kept.dtype == dtype
    for one, whole in zip(kept, deltas, strict=True):
        assert torch.equal(one, peft.magnitude_based_pruning(whole, 0.3)) or dtype.itemsize == 2  # 2 bytes: ties
        assert int((one != 0).sum()) == int(0.3 * int((whole != 0).sum()))
    votes = weighted(deltas, weights)
    assert torch.equal(elect_and_average_(deltas.clone(), weights), mean_of_agreeing_(votes, elect_sign(votes)))
    for density in (0.5, 0.3):  # of which one byte decides all, and not quite all entries
        masks = drop_random_(torch.ones_like(deltas), density, 1, [A, B]) != 0
        for mask, content in zip(masks, (A, B), strict=True):  # the same streams, however they are cut up
            assert mask.flatten().tolist() == RandomBits(1, content.digest).below(density, mask.numel()).tolist()


@pytest.mark.parametrize("density", [0.0, 0.001, 0.3, 0.5, 0.999, 1.0])
def test_keep_largest_keeps_the_same_as_peft_and_mergekit(density):
    deltas = stack(3, 17, 29)
    kept = keep_largest_(deltas.clone(), density)
    for one, whole in zip(kept, deltas, strict=True):
        assert torch.equal(one, whole if density == 1 else peft.magnitude_based_pruning(whole, density))
        if int(density * whole.numel()):  # mergekit keeps at least one
            assert torch.equal(one, magnitude(whole, density))


def test_keep_largest_keeps_exactly_so_many_of_equal_entries_and_the_first_of_them():
    deltas = torch.tensor([[1.0, -1.0, 2.0, 1.0, -1.0, 1.0, 0.5, 0.5]])
    assert keep_largest_(deltas, 0.5).tolist() == [[1.0, -1.0, 2.0, 1.0, 0, 0, 0, 0]]


def test_padding_does_not_use_up_the_share_that_is_kept():
    delta = stack(1, 8, 8)
    padded = torch.nn.functional.pad(delta, (0, 24))
    assert torch.equal(keep_largest_(padded, 0.5)[..., :8], keep_largest_(delta, 0.5))


def test_drop_random_has_the_input_as_its_mean():
    delta = stack(1, 40, 40)
    seeds = 2000
    mean = sum(drop_random_(delta.clone(), 0.3, seed, [A]) for seed in range(seeds)) / seeds
    assert abs(float((mean * delta).sum() / delta.square().sum()) - 1) < 0.01
    # every entry by itself: its standard error is |x|·sqrt((1 - d)/d / seeds), here 3.4 % of |x|
    assert float(((mean - delta) / delta).abs().max()) < 5.5 * 0.0342


@pytest.mark.parametrize("density", [0.05, 0.5, 0.9])
def test_drop_random_keeps_the_share_and_divides_by_it(density):
    delta = torch.ones(1, 1000, 1000)
    kept = drop_random_(delta, density, 3, [A])
    assert float((kept != 0).float().mean()) == pytest.approx(density, abs=0.002)
    assert kept.unique().tolist() == pytest.approx([0, 1 / density])


def test_masks_depend_on_seed_and_content_alone():
    def masks(seed, contents):
        return drop_random_(torch.ones(len(contents), 64, 64), 0.5, seed, contents)

    first = masks(1, [A, B])
    assert torch.equal(first, masks(1, [B, A]).flip(0))
    assert torch.equal(first[0], masks(1, [A])[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, masks(2, [A, B]))


def test_density_zero_keeps_nothing():
    assert not drop_random_(stack(2, 5, 5), 0.0, 0, [A, B]).any()
    assert not keep_largest_(stack(2, 5, 5), 0.0).any()


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.3, -1.5, 2.0]])
def test_election_and_mean_are_those_of_the_paper(weights):
    deltas = torch.stack(weighted(keep_largest_(stack(3, 19, 23), 0.6), torch.tensor(weights)))
    mask = get_mask(deltas, "sum")
    assert torch.equal(torch.sign(deltas) == elect_sign(deltas), mask.bool())
    expected = (deltas * mask).sum(0) / mask.sum(0).clamp(min=1)
    torch.testing.assert_close(mean_of_agreeing_(deltas.clone(), elect_sign(deltas)), expected)
    torch.testing.assert_close(peft.disjoint_merge(deltas, mask), expected)


def test_a_tie_elects_plus():
    deltas = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    assert mean_of_agreeing_(deltas, elect_sign(deltas)).tolist() == [2.0, 0.0]
