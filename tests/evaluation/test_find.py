"""Scores and threshold of `hf-unlearn find` against their definitions, and what is kept on the disk."""

import numpy as np
import pytest
import torch
from conftest import make_images, make_model, make_picture
from datasets import Dataset, Features, Image

from hf_unlearn.data.image_dataset import ImageDataset, to_rgb
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation import find
from hf_unlearn.evaluation.find import features_of, find_images, suggest_threshold


def as_dataset(images):
    return Dataset.from_dict({"image": images}, features=Features(image=Image()))


@pytest.fixture
def images():
    return make_images([row % 3 for row in range(12)], seed=3)


def test_score_is_the_mean_cosine_of_what_the_head_sees(images, image_processor):
    model = make_model("resnet")
    found = find_images(model, image_processor, as_dataset(images), [to_rgb(images[0]), to_rgb(images[3])], "image")
    pixels = torch.stack([item["pixel_values"] for item in ImageDataset(as_dataset(images), image_processor)])
    with torch.no_grad():
        features = model.resnet(pixels).pooler_output.flatten(1)
    cosines = torch.nn.functional.cosine_similarity(features[:, None], features[None, [0, 3]], dim=-1)
    np.testing.assert_allclose(found.scores, cosines.mean(dim=1), atol=1e-5)
    assert found.copies.tolist() == [row in (0, 3) for row in range(12)]


def test_a_model_without_a_linear_head_is_compared_by_its_logits(images, image_processor):
    model = make_model("resnet")
    model.classifier = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 3))
    dataset = ImageDataset(as_dataset(images), image_processor)
    assert features_of(model, dataset, 5).shape == (12, 16)
    model.classifier.append(torch.nn.Tanh())
    features = features_of(model, dataset, 5)
    with torch.no_grad():
        np.testing.assert_allclose(features[0], model(dataset[0]["pixel_values"][None]).logits[0], atol=1e-6)


def test_a_model_stored_in_16_bits_is_compared_in_32(images, image_processor):
    dataset = ImageDataset(as_dataset(images), image_processor)
    model = make_model("resnet").bfloat16()
    features = features_of(model, dataset, 5)
    assert model.dtype == torch.bfloat16
    np.testing.assert_array_equal(features, features_of(model.float(), dataset, 5))


def test_a_damaged_file_of_the_cache_is_one_line(images, image_processor, tmp_path):
    arguments = (make_model("resnet"), image_processor, as_dataset(images), [to_rgb(images[0])], "image")
    find_images(*arguments, features_cache_dir=tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        content = path.read_bytes()
        path.write_bytes(b"no features")
        with pytest.raises(InputError, match="features_cache_dir: .* is damaged, delete it"):
            find_images(*arguments, features_cache_dir=tmp_path)
        path.write_bytes(content)


def test_threshold_lies_in_the_widest_weighted_gap():
    # √i times the gap: 0.11, 0.03 √2, 0.06 √3 = 0.104, 0.01 · 2.
    scores = np.array([0.7, 0.90, 0.69, 0.76, 0.68, 0.79, 0.67, 0.66])
    assert suggest_threshold(scores) == pytest.approx((0.90 + 0.79) / 2)
    scores[1] = 0.87
    assert suggest_threshold(scores) == pytest.approx((0.76 + 0.70) / 2)


def test_threshold_of_next_to_no_scores_takes_nothing():
    assert suggest_threshold(np.array([0.3, 0.2])) == 1.0
    assert suggest_threshold(np.array([])) == 1.0


def test_mirrored_and_shrunk_copies_are_found_by_their_hash(image_processor):
    pytest.importorskip("imagehash")
    pictures = [make_picture(seed) for seed in range(6)]
    mirrored = pictures[0].transpose(0)
    data = as_dataset([*pictures, mirrored, pictures[0].resize((32, 32))])
    found = find_images(make_model("resnet"), image_processor, data, [to_rgb(pictures[0])], "image")
    assert found.copies.nonzero()[0].tolist() == [0, 6, 7]


def test_blocks_give_the_same_scores_and_are_kept_by_their_content(images, image_processor, tmp_path, monkeypatch):
    model, example = make_model("resnet"), [to_rgb(images[1])]
    whole = find_images(model, image_processor, as_dataset(images), example, "image", batch_size=4)
    monkeypatch.setattr(find, "BLOCK", 4)
    runs = []
    monkeypatch.setattr(find, "collect_logits_of_all", lambda *args: runs.append(len(args[1])) or collect(*args))
    from hf_unlearn.evaluation.logits import collect_logits_of_all as collect

    def again(images):
        runs.clear()
        return find_images(
            model,
            image_processor,
            as_dataset(images),
            example,
            "image",
            batch_size=4,
            features_cache_dir=tmp_path / "c",
        )

    np.testing.assert_allclose(again(images).scores, whole.scores, atol=1e-6)
    assert runs == [1, 4, 4, 4]
    assert np.array_equal(again(images).scores, again(images).scores)
    assert runs == [1]
    # Another image in the middle, and one more at the end: two blocks are new.
    images[5] = images[5].transpose(0)
    again([*images, images[0]])
    assert runs == [1, 4, 1]
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    # Nothing there has the name of anything but hashes.
    names = {path.name for path in (tmp_path / "c").rglob("*.safetensors")}
    assert all(len(name) == 64 + len(".safetensors") for name in names)


def test_an_image_that_cannot_be_read_has_no_score(images, image_processor, tmp_path, monkeypatch):
    monkeypatch.setattr(find, "BLOCK", 2)
    paths = []
    for number, image in enumerate(images[:6]):
        paths.append(str(tmp_path / f"{number}.png"))
        image.save(paths[-1])
    for number in (1, 4, 5):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    found = find_images(make_model("resnet"), image_processor, as_dataset(paths), [to_rgb(images[0])], "image")
    assert np.isnan(found.scores).nonzero()[0].tolist() == [1, 4, 5]
    assert not found.copies[[1, 4, 5]].any()
