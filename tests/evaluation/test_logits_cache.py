"""Outputs kept on disk: read again for the same model and images, never for others."""

import copy
import json
import stat

import numpy as np
import pytest
import torch
from conftest import make_images, make_model
from datasets import Dataset, DatasetDict, Image, load_dataset
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import ViTImageProcessor

from hf_unlearn import evaluate_unlearning
from hf_unlearn.errors import InputError, SaveError
from hf_unlearn.evaluation.logits_cache import model_key, split_key


@pytest.fixture
def splits(dataset):
    return DatasetDict(forget=dataset["train"].select(range(5)), retain_test=dataset["test"])


@pytest.fixture
def counted(resnet):
    """The model and the list of the sizes of its batches so far."""
    seen = []
    # Single images pass before: the model is looked at.
    resnet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend(n for n in [len(kwargs["pixel_values"])] if n > 1), with_kwargs=True
    )
    return resnet, seen


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_second_evaluation_runs_no_model_and_gives_the_same_report(counted, splits, image_processor, tmp_path):
    model, seen = counted
    measure = lambda: evaluate_unlearning(  # noqa: E731
        model, splits, image_processor, label_column="label", logits_cache_dir=tmp_path / "cache"
    )
    first = measure()
    assert len(seen) == 2
    assert measure() == first and len(seen) == 2
    assert evaluate_unlearning(model, splits, image_processor, label_column="label") == first


def test_one_changed_weight_one_changed_image_or_another_batch_size_run_the_model_again(
    counted, splits, image_processor, tmp_path
):
    model, seen = counted

    def measure(**changes):
        evaluate_unlearning(
            model, changes.pop("splits", splits), image_processor, label_column="label",
            logits_cache_dir=tmp_path, **changes,
        )  # fmt: skip

    measure()
    measure(batch_size=8)
    assert len(seen) == 2 + 1 + 3
    forget = splits["forget"].to_list()
    forget[2]["image"] = splits["retain_test"][0]["image"]
    changed = Dataset.from_list(forget, features=splits["forget"].features)
    measure(splits=DatasetDict(forget=changed, retain_test=splits["retain_test"]))
    # The other split is still known.
    assert len(seen) == 6 + 1
    with torch.no_grad():
        model.classifier[1].bias[0] += 1e-6
    measure()
    assert len(seen) == 7 + 2


def test_labels_are_read_anew(counted, splits, image_processor, tmp_path):
    model, seen = counted
    evaluate_unlearning(model, splits, image_processor, label_column="label", logits_cache_dir=tmp_path)
    rows = [row | {"label": 0} for row in splits["forget"].to_list()]
    splits["forget"] = Dataset.from_list(rows, features=splits["forget"].features)
    report = evaluate_unlearning(model, splits, image_processor, label_column="label", logits_cache_dir=tmp_path)
    assert len(seen) == 2
    expected = evaluate_unlearning(model, splits, image_processor, label_column="label")
    assert report == expected


def test_files_hold_logits_alone_and_are_the_users_own(resnet, splits, image_processor, tmp_path):
    cache = tmp_path / "cache"
    evaluate_unlearning(resnet, splits, image_processor, label_column="label", logits_cache_dir=cache)
    # Two splits of the model, and the forget set of the random network.
    assert len(files(cache)) == 3
    for path in files(cache):
        assert path.suffix == ".safetensors"
        tensors = load_file(path)
        assert tensors.keys() == {"logits"} and tensors["logits"].dtype == np.float32
        header = path.read_bytes()
        assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")]).keys() == {"logits"}
        assert b"id-" not in header and "animals" not in str(path.relative_to(cache))
    for folder in (cache, *(path for path in cache.iterdir())):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_damaged_file_is_an_error_that_names_it(resnet, splits, image_processor, tmp_path):
    evaluate_unlearning(resnet, splits, image_processor, label_column="label", logits_cache_dir=tmp_path)
    for path in files(tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="logits_cache_dir: .* is damaged, delete it"):
        evaluate_unlearning(resnet, splits, image_processor, label_column="label", logits_cache_dir=tmp_path)


def test_folder_that_cannot_be_written_is_one_line(resnet, splits, image_processor, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="the logits could not be written"):
        evaluate_unlearning(
            resnet, splits, image_processor, label_column="label", logits_cache_dir=tmp_path / "file" / "cache"
        )


def test_key_of_a_model_is_that_of_its_copy_on_disk_and_does_not_see_what_training_notes(
    resnet, image_processor, tmp_path
):
    before = model_key(resnet, image_processor, 64)
    resnet.save_pretrained(tmp_path)
    loaded = type(resnet).from_pretrained(tmp_path)
    # As the Trainer and a forward pass with labels do.
    loaded.config.use_cache, loaded.config.problem_type = False, "single_label_classification"
    assert model_key(loaded, image_processor, 64) == before


def test_key_of_a_model_sees_all_that_changes_its_outputs(resnet, image_processor):
    def set_running_mean(model):
        next(value for name, value in model.named_buffers() if name.endswith("running_mean"))[0] += 1e-6

    changes = [
        lambda model: setattr(model.config, "hidden_act", "gelu"),
        lambda model: setattr(model.config, "_attn_implementation", "sdpa"),
        set_running_mean,
        lambda model: model.double(),
    ]
    keys = [model_key(resnet, image_processor, 64), model_key(make_model("vit"), image_processor, 64)]
    keys += [model_key(resnet, ViTImageProcessor(size={"height": 8, "width": 8}), 64)]
    for change in changes:
        model = copy.deepcopy(resnet)
        change(model)
        keys.append(model_key(model, image_processor, 64))
    assert len(set(keys)) == len(keys)


def test_model_with_adapters_is_not_cached(resnet, splits, image_processor, tmp_path):
    adapted = get_peft_model(resnet, LoraConfig(target_modules=["convolution"], r=2))
    assert model_key(adapted, image_processor, 64) is None
    assert model_key(adapted.base_model.model, image_processor, 64) is not None
    evaluate_unlearning(adapted, splits, image_processor, label_column="label", logits_cache_dir=tmp_path)
    # That of the random network alone.
    assert len(files(tmp_path)) == 1


def save_images(folder, seed):
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(make_images([0, 1, 2], seed)):
        image.save(folder / f"{number}.png")


def test_key_of_a_split_is_that_of_the_content_wherever_it_lies(tmp_path):
    for name in ("one", "other"):
        save_images(tmp_path / name, seed=0)
    keys = []
    for name in ("one", "other"):
        dataset = load_dataset(
            "imagefolder", data_dir=str(tmp_path / name), split="train", cache_dir=str(tmp_path / "c")
        )
        keys.append(split_key(dataset, "image"))
        embedded = [{"image": {"bytes": (tmp_path / name / f"{i}.png").read_bytes(), "path": None}} for i in range(3)]
        keys.append(split_key(Dataset.from_list(embedded).cast_column("image", Image()), "image"))
    assert len(set(keys)) == 1
    # The same names, other images.
    save_images(tmp_path / "one", seed=1)
    dataset = load_dataset(
        "imagefolder", data_dir=str(tmp_path / "other"), split="train", cache_dir=str(tmp_path / "c")
    )
    before = split_key(dataset, "image")
    save_images(tmp_path / "other", seed=1)
    assert before == keys[0] != split_key(dataset, "image")


def test_key_of_a_split_sees_order_and_format(dataset):
    images = dataset["test"]
    keys = [split_key(images, "image"), split_key(images.select(range(17, -1, -1)), "image")]
    keys += [split_key(images.with_transform(lambda batch: batch), "image")]
    keys += [split_key(images.cast_column("image", Image(mode="L")), "image")]
    assert len(set(keys)) == 4
    assert split_key(images.remove_columns(["breed"]), "image") == keys[0]
