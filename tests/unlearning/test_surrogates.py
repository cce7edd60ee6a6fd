"""Surrogate images: each change by itself, on images on which it can be written down."""

import pytest
import torch

from hf_unlearn.unlearning.surrogates import (
    IMPRESSION_PLACES,
    NUM_DRAWS,
    NUM_IMAGES,
    NUM_JOIN_DRAWS,
    Surrogates,
    change_strongly,
    join,
    keyed_draws,
    make_surrogates,
)


LOW, HIGH = torch.tensor(-1.0), torch.tensor(1.0)
# Draws that change nothing: no turn, the whole area, no mirror, no gain, no shift, the order as it is, not inverted.
NOTHING = torch.full((1, NUM_DRAWS), 0.5)
NOTHING[0, 1], NOTHING[0, 2], NOTHING[0, 13] = 1.0, 0.0, 1.0
IMAGES = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def changed(**draws) -> torch.Tensor:
    values = NOTHING.clone()
    for column, value in draws.items():
        values[0, int(column[1:])] = value
    return change_strongly(IMAGES, values, LOW, HIGH)


def test_draws_that_change_nothing_leave_the_image():
    torch.testing.assert_close(changed(), IMAGES, rtol=0, atol=1e-5)


def test_image_is_mirrored():
    torch.testing.assert_close(changed(_2=0.9), IMAGES.flip(3), rtol=0, atol=1e-5)


def test_image_is_inverted_within_its_range():
    torch.testing.assert_close(changed(_13=0.0), -IMAGES, rtol=0, atol=1e-5)


def test_gain_and_shift_are_by_channel():
    expected = IMAGES.clone()
    expected[:, 1] = expected[:, 1] * 1.35 - 0.35
    torch.testing.assert_close(changed(_6=1.0, _9=0.0), expected, rtol=0, atol=1e-5)


def test_channels_change_places():
    torch.testing.assert_close(changed(_11=0.0, _12=0.99), IMAGES[:, [2, 1, 0]], rtol=0, atol=1e-5)


def test_smallest_crop_shows_a_tenth_of_the_area():
    """A ramp from −1 to 1 seen through a window whose side is √0.1 of the image's: its range shrinks by that."""
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    values = NOTHING.clone()
    values[0, 1] = 0.0
    seen = change_strongly(ramp, values, LOW, HIGH)
    # Half a pixel at each side.
    assert (seen.max() - seen.min()).item() == pytest.approx(2 * 0.1**0.5, abs=0.03)


def test_images_of_one_channel_have_one_gain_and_no_order():
    draws = torch.rand(4, NUM_DRAWS, generator=torch.Generator().manual_seed(0))
    assert change_strongly(torch.zeros(4, 1, 8, 8), draws, LOW, HIGH).shape == (4, 1, 8, 8)


@pytest.mark.parametrize(
    ("way", "expected"), [(0.0, "blend"), (0.5, "patch"), (0.9, "first")], ids=["blended", "patched", "left"]
)
def test_two_images_are_blended_or_patched_or_left(way, expected):
    first, second = torch.zeros(1, 3, 10, 10), torch.ones(1, 3, 10, 10)
    # A share of a quarter of the first; a patch of 88 % of each side, in the corner.
    draws = torch.tensor([[0.25, 1.0, 0.0, 0.0, way]])
    joined = join(first, second, draws)
    if expected == "blend":
        assert torch.all(joined == 0.75)
    elif expected == "patch":
        assert joined[0, 0, :8, :8].min() == 1 and joined[0, 0, 9].max() == 0 and joined[0, 0, :, 9].max() == 0
    else:
        assert torch.equal(joined, first)


def test_surrogates_stay_within_the_range_of_the_pixels():
    draws = torch.rand(64, 2 * NUM_DRAWS + NUM_JOIN_DRAWS, generator=torch.Generator().manual_seed(0))
    images = make_surrogates(IMAGES.expand(64, -1, -1, -1), -IMAGES.expand(64, -1, -1, -1), draws, LOW, HIGH)
    assert images.min() >= -1 and images.max() <= 1 and len(images.flatten(1).unique(dim=0)) == 64


def test_draws_depend_on_seed_update_and_purpose():
    draws = [keyed_draws(*key, (2, 3)) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, -1, 0))]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    assert torch.equal(draws[0], keyed_draws(0, 0, 0, (2, 3)))


def of_one_value(value: float, count: int) -> torch.Tensor:
    return torch.full((count, 3, 4, 4), value)


def test_given_images_take_every_other_place_of_an_impression():
    forget, impressions, proxies = of_one_value(-1.0, 3), of_one_value(0.0, 2), of_one_value(1.0, 5)
    surrogates = Surrogates(torch.cat([forget, of_one_value(1.0, 1)]), impressions, seed=0, proxies=proxies)
    images, is_forget, others = surrogates.of_update(0, torch.arange(NUM_IMAGES))
    assert [image.unique().item() for image in images[IMPRESSION_PLACES]] == [0.0, 1.0] * 16
    assert len(others) == is_forget.sum() == 16


def test_an_image_is_not_joined_with_itself_where_there_is_another():
    numbered = torch.arange(5.0)[:, None, None, None].expand(-1, 3, 4, 4).contiguous()
    surrogates = Surrogates(numbered, of_one_value(0.0, 1), seed=0)
    for update in range(20):
        images, is_forget, others = surrogates.of_update(update, torch.arange(NUM_IMAGES))
        assert (images[is_forget][:, 0, 0, 0] != others[:, 0, 0, 0]).all()
