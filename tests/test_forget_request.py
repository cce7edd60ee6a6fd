import pytest

from hf_unlearn import ForgetRequest
from hf_unlearn.errors import InputError


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize(
    "request_",
    [
        ForgetRequest(classes=["cat", 2], reason="no longer licensed"),
        ForgetRequest(column="fine_label", values=["rocket"]),
        ForgetRequest(indices=[3, 17]),
        ForgetRequest(ids=["a.png"], id_column="file"),
        ForgetRequest(fraction=0.01, seed=4),
        ForgetRequest(count=100),
    ],
    ids=lambda request: request.kind,
)
def test_file_gives_the_request_back(request_, suffix, tmp_path):
    path = tmp_path / f"request.{suffix}"
    request_.to_file(path)
    assert ForgetRequest.from_file(path) == request_


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one way"),
        ({"classes": ["cat"], "indices": [1]}, "exactly one way"),
        ({"classes": []}, "classes: expected a list with at least one entry"),
        ({"classes": "cat"}, "classes: expected a list"),
        ({"column": "fine_label"}, "column and values go together"),
        ({"indices": [3, 3, 5]}, "indices: listed twice: 3"),
        ({"indices": [-1]}, "indices: -1 is not a row number"),
        ({"fraction": 1.0}, "fraction: must lie between 0 and 1"),
        ({"fraction": 0.0}, "fraction: must lie between 0 and 1"),
        ({"count": 0}, "count: must be at least 1"),
    ],
)
def test_wrong_request_is_an_error(arguments, message):
    with pytest.raises(InputError, match=message):
        ForgetRequest(**arguments)


def test_unknown_key_of_a_file_is_an_error(tmp_path):
    path = tmp_path / "request.yaml"
    path.write_text("classess: [cat]")
    with pytest.raises(InputError, match="unknown key 'classess'. Valid: classes"):
        ForgetRequest.from_file(path)


@pytest.mark.parametrize("text", ["{", "- a\n- b", "\x00", "classes: [cat"])
def test_file_that_is_no_request_is_an_error(text, tmp_path):
    path = tmp_path / "request.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="forget_request"):
        ForgetRequest.from_file(path)


def test_random_choice_depends_on_the_seed_alone():
    chosen = ForgetRequest(fraction=0.1, seed=3).choose_random(200)
    assert len(chosen) == 20 and chosen == sorted(set(chosen)) and set(chosen) < set(range(200))
    assert chosen == ForgetRequest(count=20, seed=3).choose_random(200)
    assert chosen != ForgetRequest(fraction=0.1, seed=4).choose_random(200)


def test_description_names_no_record():
    assert "17" not in ForgetRequest(indices=[3, 17]).describe()
    assert "a.png" not in ForgetRequest(ids=["a.png"]).describe()
    assert ForgetRequest(classes=["cat"]).describe() == "every image of the class cat"
