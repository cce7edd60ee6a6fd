"""In which order the updates take their images, and what is padding."""

import pytest

from hf_unlearn.data.training_set import PhasedSampler, TrainingSet, interleave


FORGET = [{"pixel_values": number, "labels": 0} for number in range(3)]
RETAIN = [{"pixel_values": number, "labels": 1} for number in range(10, 15)]


def test_parts_lie_one_after_the_other():
    images = TrainingSet({"forget": FORGET, "retain": RETAIN})
    assert len(images) == 8
    assert list(images.positions("forget")) == [0, 1, 2]
    assert [images[position]["pixel_values"] for position in images.positions("retain")] == [10, 11, 12, 13, 14]
    assert [images[position]["is_forget"] for position in range(8)] == [True] * 3 + [False] * 5
    assert [images[position]["sample_index"] for position in range(8)] == list(range(8))


def test_positions_past_the_end_are_padding_without_weight():
    images = TrainingSet({"forget": FORGET})
    assert [images[position]["sample_weight"] for position in range(6)] == [1, 1, 1, 0, 0, 0]
    assert images[4]["pixel_values"] == 1


def test_forget_image_without_a_label_beside_labelled_ones_gets_minus_one():
    images = TrainingSet({"forget": [{"pixel_values": 0}], "retain": RETAIN})
    assert [images[position]["labels"] for position in range(3)] == [-1, 1, 1]


def test_without_any_label_there_is_none():
    assert "labels" not in TrainingSet({"forget": [{"pixel_values": 0}]})[0]


def test_each_phase_fills_whole_updates_from_its_own_images():
    """Updates of four images, two at once. The last phase is filled up to what is taken at once alone."""
    sampler = PhasedSampler(
        lambda shuffle: [[0, 1, 2], [3]], num_images=8, multiple_of=2, update_size=4, shuffle=False, seed=0
    )
    # Padding is an image's position plus the number of images.
    assert list(sampler) == [0, 1, 2, 8, 3, 11]
    assert len(sampler) == 6


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = PhasedSampler(lambda shuffle: [shuffle(range(20))], 20, 1, 1, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0) and sorted(order(0, 0)) == list(range(20))
    assert len({tuple(order(*key)) for key in ((0, 0), (0, 1), (5, 0))}) == 3


@pytest.mark.parametrize("second, expected", [([8, 9], [1, 8, 2, 9, 3, 8]), ([8], [1, 8, 2, 8, 3, 8])])
def test_interleaving_starts_the_shorter_one_again(second, expected):
    assert interleave([1, 2, 3], second) == expected
