"""Nothing that is published or sent names a forgotten image, a path or who asked, whatever they are called."""

import io
import os

import pytest
import torch
from conftest import make_images, make_model, make_split
from datasets import ClassLabel, Dataset, Features, Image, Value
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hf_unlearn import ForgetRequest, JiTConfig, JiTTrainer, evaluate_unlearning, split_dataset
from hf_unlearn.data.image_dataset import ImageDataset
from hf_unlearn.data.splits import ForgetSource
from hf_unlearn.errors import InputError
from hf_unlearn.publication import run_files
from hf_unlearn.publication.answer import write_answer
from hf_unlearn.publication.facts import provenance_of
from hf_unlearn.publication.files import PUBLISHED
from hf_unlearn.publication.run_files import write_run_files


# Words that no hash has, so that what is found was leaked. What stands around one must not change that.
secrets = st.text("GHJKQVWXYZ", min_size=8, max_size=12)
around = st.sampled_from(
    ["", " ", "é", '"', "<b>", "{{ x }}", "|", "`", "$", "&", "'", "\u202e", "\\", "\n", "%", ":"]
)
phrases = st.tuples(around, secrets, around).map("".join)
# The last part of a folder's name is the name of the data, which is published.
folders = st.text("LMNPRSTU", min_size=8, max_size=12)
names = st.tuples(secrets, st.sampled_from(["", " (1)", "é", "&", "'", "$x$"])).map("".join)


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, image_processor_for_all):
    """A trainer that is done, its report and its output folder."""
    folder = tmp_path_factory.mktemp("published") / "out"
    splits = split_dataset(make_split(12, seed=0), ForgetRequest(indices=[0, 3]), "label")
    config = JiTConfig(str(folder), step_rule="fixed", learning_rate=1e-3, report_to="none", disable_tqdm=True)
    model = make_model("resnet")
    trainer = JiTTrainer(
        model, config, processing_class=image_processor_for_all, forget_dataset=splits["forget"], label_column="label"
    )
    trainer.train()
    trainer.save_model(_internal_call=True)
    torch.manual_seed(0)
    report = evaluate_unlearning(
        model, splits, image_processor_for_all, original_model=make_model("resnet"), label_column="label"
    )
    return trainer, report, folder


@pytest.fixture(scope="module")
def image_processor_for_all():
    from transformers import ViTImageProcessor

    return ViTImageProcessor(size={"height": 16, "width": 16})


IMAGES = [png(image) for image in make_images([0, 0], seed=9)]


@settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 25)),
    deadline=None,
    # An example takes too long to look for a smaller one.
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    ids=st.lists(phrases, min_size=2, max_size=2, unique=True),
    files=st.lists(names, min_size=2, max_size=2, unique=True),
    folder_name=folders,
    requester=phrases,
    reason=phrases,
    way=st.sampled_from(["ids", "files", "file_names", "indices"]),
    in_folder=st.booleans(),
)
def test_nothing_published_names_an_image_a_path_or_who_asked(
    finished, tmp_path_factory, monkeypatch, capfd, ids, files, folder_name, requester, reason, way, in_folder
):
    trainer, report, folder = finished
    # A picture has no text but that of the report.
    monkeypatch.setattr(run_files, "save_figures", lambda report, folder: None)
    root = tmp_path_factory.mktemp("data") / folder_name
    paths = [str(root / f"{name}.png") if in_folder else f"{name}.png" for name in files]
    rows = Dataset.from_dict(
        {
            "image": [{"bytes": content, "path": path} for content, path in zip(IMAGES, paths, strict=True)],
            "label": [0, 0],
            "record": ids,
        },
        features=Features(image=Image(), label=ClassLabel(names=["cat", "dog", "owl"]), record=Value("string")),
    )
    named = {
        "ids": {"ids": ids, "id_column": "record"},
        "files": {"files": [f"{name}.png" for name in files]},
        "file_names": {"ids": [f"{name}.png" for name in files]},
        "indices": {"indices": [3, 17]},
    }[way]
    try:
        request = ForgetRequest(
            id="R-1", date="2026-11-27", deadline="2031-05-06", requester=requester, reason=reason, **named
        )
    except InputError:
        # What the schema refuses never gets here.
        return
    root.mkdir(parents=True)
    forget = trainer.train_dataset.parts["forget"]
    assert isinstance(forget, ImageDataset)
    monkeypatch.setattr(forget, "dataset", rows)
    monkeypatch.setattr(trainer, "source", ForgetSource(request, rows, "label"))
    provenance = provenance_of(trainer, request, str(root))
    write_run_files(trainer, report, request, str(root) if in_folder else "org/data", provenance)
    aside = tmp_path_factory.mktemp("answer")
    letter, page = write_answer(folder, aside)

    published = {path for pattern in PUBLISHED for path in folder.glob(pattern)}
    assert {"README.md", "unlearning_record.json", "report.json"} <= {path.name for path in published}
    cores = [word for text in (*ids, *files, requester, reason) for word in [core(text)]]
    hidden = [*cores, str(root.parent), "2031-05-06", (folder / "unlearning_salt").read_text().strip()]
    said = "".join(capfd.readouterr())
    for name, content in {
        **{path: path.read_bytes() for path in (*published, letter, page)},
        "log": said.encode(),
    }.items():
        for secret in hidden:
            assert secret.encode() not in content, (name, secret)


def core(text):
    """The secret word of a phrase."""
    return max("".join(c if c in "GHJKQVWXYZ" else " " for c in text).split(), key=len)
