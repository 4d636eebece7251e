"""Batches: the generator against its published vectors and its twin, and the statistics of the draws."""

import naive
import numpy as np
import pytest

from sgdsim import sampling
from sgdsim.algorithm import draws
from sgdsim.common.checks import InputError


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known-answer vectors published with Random123
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_vectors(counter, key, expected):
    out = np.empty(4, np.uint64)
    sampling.philox(np.array(counter, np.uint64), np.uint64(key[0]), np.uint64(key[1]), out)
    assert out.tolist() == expected == naive.philox(counter, key)


@pytest.mark.parametrize("how", sampling.OF_POINTS)
def test_batches_equal_the_literal_twin(how):
    keys = sampling.replicate_keys(5, 3)
    sizes = np.array([4, 4, 7, 1, 11, 11, 2, 9, 9])
    drawn = sampling.minibatch_indices(11, sizes, 0, sizes.size, keys, how)
    for key, rows in zip(keys, drawn, strict=True):
        if how == "reshuffle":
            expected = naive.reshuffled(11, sizes.tolist(), key)
        else:
            expected = [naive.batch(11, b, t, key, how == "with-replacement") for t, b in enumerate(sizes.tolist())]
        assert [row[row >= 0].tolist() for row in rows] == expected


@pytest.mark.parametrize("how", sampling.OF_POINTS)
def test_batches_depend_on_seed_replicate_and_step_alone(how):
    keys = sampling.replicate_keys(0, 4)
    sizes = np.full(40, 6)
    whole = sampling.minibatch_indices(20, sizes, 0, 40, keys, how)
    place = sampling.EpochPlaces(20, lambda start, stop: sizes[start:stop]).at(17) if how == "reshuffle" else (0, 0)
    assert (sampling.minibatch_indices(20, sizes[17:], 17, 40, keys, how, place) == whole[:, 17:]).all()  # any chunk
    assert (sampling.minibatch_indices(20, sizes, 0, 40, keys[2:3], how) == whole[2:3]).all()  # any company
    assert (sampling.replicate_keys(0, 9)[:4] == keys).all()
    other = sampling.minibatch_indices(20, sizes, 0, 40, sampling.replicate_keys(1, 4), how)
    assert (other != whole).any(axis=(1, 2)).all()
    assert len({row.tobytes() for row in whole}) == 4


def test_places_in_epochs_are_found_going_on(monkeypatch):
    """In any order, from sizes that change; and pieces of a run lay each step out once."""
    monkeypatch.setattr(draws, "_LAID_OUT", 7)
    sizes, asked = np.random.default_rng(0).integers(1, 12, 100), []

    def of(start, stop):
        asked.append(stop - start)
        return sizes[start:stop]

    epoch, used, expected = 0, 0, []
    for size in sizes.tolist():
        expected.append((epoch, used))
        epoch, used = (epoch, used + size) if used + size <= 15 else (epoch + 1, size)
    places = sampling.EpochPlaces(15, of)
    # Before a step the place is behind the last batch, whether or not the next one fits.
    assert [places.at(step) for step in range(100)] == expected
    assert sum(asked) == 99
    assert [places.at(step) for step in (50, 3, 99)] == [expected[step] for step in (50, 3, 99)]


def test_a_larger_batch_begins_with_the_smaller_one():
    keys = sampling.replicate_keys(3, 2)
    small, large = (sampling.minibatch_indices(50, np.full(9, b), 0, 9, keys) for b in (5, 20))
    assert (large[:, :, :5] == small).all()


def test_steps_beyond_32_bits_differ():
    keys = sampling.replicate_keys(0, 1)
    at = [sampling.minibatch_indices(1000, np.full(1, 50), t, t + 1, keys).tobytes() for t in (7, 7 + 2**32)]
    assert at[0] != at[1]


def test_all_ordered_pairs_are_equally_likely():
    draws = sampling.minibatch_indices(6, np.full(60_000, 2), 0, 60_000, sampling.replicate_keys(2, 1))[0]
    assert (draws[:, 0] != draws[:, 1]).all()
    counts = np.bincount(draws[:, 0] * 6 + draws[:, 1], minlength=36).reshape(6, 6)[~np.eye(6, dtype=bool)]
    chi2 = ((counts - 2000.0) ** 2 / 2000.0).sum()  # 29 degrees of freedom: 58.3 at probability 0.001
    assert chi2 < 58.3


def test_every_epoch_visits_every_point_once():
    draws = sampling.minibatch_indices(12, np.full(9, 4), 0, 9, sampling.replicate_keys(0, 2), "reshuffle")
    assert (np.sort(draws.reshape(2, 3, 12), axis=-1) == np.arange(12)).all()


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match="at most the 5 training points"):
        sampling.minibatch_indices(5, np.array([6]), 0, 1, sampling.replicate_keys(0, 1))
    assert (
        sampling.minibatch_indices(5, np.array([6]), 0, 1, sampling.replicate_keys(0, 1), "with-replacement").max() < 5
    )
