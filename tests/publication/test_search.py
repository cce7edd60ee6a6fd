"""What the search for a step found, in words."""

import pytest

from hf_unlearn.publication.search import Search


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (Search(0.01, 0.95, 0.008, 0.024, 6, True), "found in 6 trials, is 2.4 % of the norm"),
        (Search(0.99, 0.98, 0.98, 0.0, 0, True), "no weight has moved: accuracy on the forget set is 98.0 %"),
        (Search(0.6, 1.0, 0.65, 0.1, kind="surroundings", slope=0.2, moved=9), "9 of them got the answer"),
        (Search(1.0, 1.0, 1.0, kind="surroundings", slope=0.9), "little to forget that its answers would show"),
        (Search(0.12, 0.99, 0.21, kind="advisers", moved=225), "from 225 retained images alone"),
        (Search(0.12, 0.99, 0.21, kind="advisers"), "name the label of 12.0 % of the images"),
        (Search(0.01, 0.95, 0.4, 0.6, 5, False), "95.0 → 40.0 %, and not 1.0 %. The forgetting is incomplete."),
    ],
)
def test_outcome_of_the_search_is_said_in_words(search, said):
    assert said in search.describe()


@pytest.mark.parametrize(
    ("search", "change", "points"),
    [
        (Search(0.01, 0.95, 0.008, 0.024, 6, True), 0.10, None),
        (Search(0.01, 0.95, 0.008, 0.024, 6, True), 0.18, "0.9"),
        (Search(0.01, 0.95, 0.008, 0.024, 6, True), 0.23, "1.3"),
        # Past what was measured, not moved, and single images, of which nothing of the kind was measured.
        (Search(0.01, 0.95, 0.008, 0.024, 6, True), 0.60, None),
        (Search(0.99, 0.98, 0.98, 0.0, 0, True), 0.23, None),
        (Search(0.9, 1.0, 0.9, 0.5, 1, True, kind="head"), 0.23, None),
    ],
)
def test_change_between_fine_and_refused_is_said_in_points(search, change, points):
    said = search.likely_loss(change)
    assert said is None if points is None else f"one in ten lost more than {points} points of accuracy" in said
