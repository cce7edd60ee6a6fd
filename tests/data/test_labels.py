"""Which column holds the labels, and which class of the model each label is."""

import pytest
from conftest import CLASSES, make_images, make_split
from datasets import ClassLabel, Dataset, Features, Value

from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.data.image_dataset import find_image_column
from hf_unlearn.data.labels import by_position, find_label_column, match_labels
from hf_unlearn.errors import InputError


ANIMALS = dict(enumerate(CLASSES))
BREEDS = dict(enumerate(["tabby", "poodle", "barn", "siamese", "collie", "eagle"]))


def columns(**values) -> Dataset:
    """Text and numbers as they are; a tuple is a `ClassLabel`'s values and names."""
    features = Features(
        {name: ClassLabel(names=value[1]) if isinstance(value, tuple) else None for name, value in values.items()}
    )
    data = {name: value[0] if isinstance(value, tuple) else value for name, value in values.items()}
    plain = Dataset.from_dict(data)
    return plain.cast(Features({name: features[name] or plain.features[name] for name in values}))


@pytest.mark.parametrize(
    ("id2label", "column"), [(ANIMALS, "label"), (BREEDS, "breed"), ({0: "vehicle", 1: "animal"}, "superclass")]
)
def test_among_several_columns_the_one_that_the_model_knows_is_taken(id2label, column):
    dataset = make_split(6, seed=0).add_column("superclass", ["animal"] * 6)
    assert find_label_column(dataset, id2label=id2label) == column


def test_fine_beside_coarse_label_is_no_question():
    dataset = columns(fine_label=([0, 1], ["rocket", "tank"]), coarse_label=([0, 0], ["vehicle"]))
    assert find_label_column(dataset, id2label={0: "Rocket", 1: "tank"}) == "fine_label"
    assert find_label_column(dataset, id2label={0: "vehicle", 1: "animal"}) == "coarse_label"
    with pytest.raises(
        InputError, match="several columns could be the labels: fine_label, coarse_label; name one. The model"
    ):
        find_label_column(dataset, id2label={0: "cat", 1: "dog"})


def test_names_count_more_than_numbers():
    dataset = columns(label=[0, 1], animal=(["dog", "cat"], ["cat", "dog"]))
    assert find_label_column(dataset, id2label=ANIMALS) == "animal"
    assert find_label_column(dataset.remove_columns("animal"), id2label=ANIMALS) == "label"


def test_two_columns_with_the_same_labels_are_no_tie():
    dataset = columns(species=([0, 1], ["cat", "dog"]), text=["cat", "dog"])
    assert find_label_column(dataset, id2label=ANIMALS) == "species"


def test_real_tie_is_an_error_that_says_why():
    dataset = columns(truth=["cat", "dog"], guess=["cat", "cat"])
    with pytest.raises(
        InputError, match="label_column_name: several columns hold classes of the model, and differ: truth, guess"
    ):
        find_label_column(dataset, id2label=ANIMALS)
    assert find_label_column(dataset, "guess", ANIMALS) == "guess"


def test_without_a_model_the_classes_of_the_request_decide():
    dataset = columns(
        fine_label=([0, 1, 2], ["rocket", "tank", "ship"]), coarse_label=([0, 0, 1], ["vehicle", "boat"])
    )
    splits = split_dataset(dataset, ForgetRequest(classes=["rocket"]))
    assert splits["forget"]["fine_label"][:] == [0]
    assert split_dataset(dataset, ForgetRequest(classes=["boat"]))["forget"]["fine_label"][:] == [2]


def test_model_whose_classes_have_no_names_gets_a_way_out():
    nameless = {number: f"LABEL_{number}" for number in range(3)}
    dataset = make_split(6, seed=0)
    with pytest.raises(
        InputError, match="classes have no names .* Name a column of label ids, or add --labels_by_position"
    ):
        match_labels(dataset, find_label_column(dataset, id2label=nameless), nameless)
    assert match_labels(by_position(dataset, "label", nameless), "label", nameless) == {0: 0, 1: 1, 2: 2}
    with pytest.raises(InputError, match="labels_by_position: column 'breed' has 6 classes and the model 3"):
        by_position(dataset, "breed", nameless)
    with pytest.raises(InputError, match="labels_by_position: column 'record' has no class names"):
        by_position(dataset, "record", nameless)


CRANES = {0: "crane", 1: "hen", 2: "crane"}


def test_class_name_that_a_model_has_twice_is_told_by_its_number():
    """ImageNet's cranes: a bird and a machine."""
    assert match_labels(columns(label=[0, 2, 1]), "label", CRANES) == {0: 0, 1: 1, 2: 2}
    with pytest.raises(InputError, match=r"'crane' of column 'label' is the name of 2 classes of the model \(0, 2\)"):
        match_labels(columns(label=["crane", "hen"]), "label", CRANES)
    # Where the data has the name once, at the place of one of them, that one is meant.
    assert match_labels(columns(label=([0, 1], ["crane", "hen"])), "label", CRANES) == {0: 0, 1: 1}


def test_what_is_no_class_per_image_is_refused():
    with pytest.raises(InputError, match="holds lists of labels; one class per image"):
        match_labels(Dataset.from_dict({"label": [[0, 1], [2]]}), "label", ANIMALS)
    with pytest.raises(InputError, match="holds decimal numbers; one class per image"):
        match_labels(
            Dataset.from_dict({"label": [0.5, 1.0]}, features=Features(label=Value("float32"))), "label", ANIMALS
        )


def test_images_alone_have_no_labels():
    dataset = Dataset.from_dict({"image": make_images([0, 1], seed=0), "file": ["a.png", "b.png"]})
    assert find_label_column(dataset, id2label=ANIMALS) is None


def test_columns_are_found_from_the_features(dataset):
    train = dataset["train"]
    assert find_image_column(train) == "image" and find_label_column(train) == "label"
    renamed = train.rename_columns({"image": "img", "label": "fine_label"}).remove_columns("breed")
    assert find_image_column(renamed) == "img" and find_label_column(renamed) == "fine_label"
    assert find_label_column(renamed.remove_columns("fine_label")) is None


def test_missing_or_ambiguous_column_is_an_error(dataset):
    train = dataset["train"]
    with pytest.raises(InputError, match="image_column_name: 'picture' is no image column. Valid: image"):
        find_image_column(train, "picture")
    with pytest.raises(InputError, match="image_column_name: found 0 image columns"):
        find_image_column(train.remove_columns("image"))
    with pytest.raises(InputError, match="label_column_name: there is no column 'y'"):
        find_label_column(train, "y")
    with pytest.raises(InputError, match="several columns could be the labels: kind, breed"):
        find_label_column(train.rename_column("label", "kind"))


def test_labels_are_matched_by_name_not_by_position(dataset):
    other_order = {0: "owl", 1: "Cat", 2: "dog"}
    assert match_labels(dataset["train"], "label", other_order) == {0: 1, 1: 2, 2: 0}


def test_labels_may_be_strings_or_the_models_own_ids():
    names = Dataset.from_dict({"label": ["dog", "cat"]})
    assert match_labels(names, "label", ANIMALS) == {"dog": 1, "cat": 0}
    assert match_labels(Dataset.from_dict({"label": [2, 0]}), "label", ANIMALS) == {0: 0, 2: 2}


def test_class_that_the_model_does_not_know_is_an_error(dataset):
    with pytest.raises(InputError, match="the model has no label owl of column 'label'. Its labels: cat, dog"):
        match_labels(dataset["train"], "label", {0: "cat", 1: "dog"})
    with pytest.raises(InputError, match="label 7 of column 'label' is no label id of the model"):
        match_labels(Dataset.from_dict({"label": [0, 7]}), "label", ANIMALS)
