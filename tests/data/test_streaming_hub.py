"""A dataset on the hub is not downloaded to forget a class of it."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image, Value
from hub_server import HubServer
from PIL import Image as PILImage

from hf_unlearn.request.image_hash import pixel_sha256


NAMES = [f"class {number}" for number in range(10)]
LAYOUTS = {"shuffled": False, "sorted": True}
SCRIPT = """
import json
import numpy as np
from datasets import Image, load_dataset
from hf_unlearn import ForgetRequest, split_dataset
from hf_unlearn.request.image_hash import pixel_sha256

def split(name):
    data = load_dataset(name, streaming=True)
    request = ForgetRequest(classes=["class 3"])
    splits = split_dataset(data["train"], request, test_dataset=data["test"], max_eval_samples=24)
    files = [row for split in splits.values() for row in split.cast_column("image", Image(decode=False))["image"]]
    return {
        "sizes": {name: len(split) for name, split in splits.items()},
        "forget": [pixel_sha256(np.array(image)) for image in splits["forget"]["image"]],
        "bytes": sum(len(file["bytes"]) for file in files),
    }

print(json.dumps({layout: split(f"tester/{layout}") for layout in ("shuffled", "sorted")}))
"""


def photos(number: int, is_sorted: bool) -> Dataset:
    """Noise of 80 to 240 kB, as photographs have, of ten classes."""
    rng = np.random.default_rng(number)
    labels = np.sort(np.arange(number) % 10) if is_sorted else rng.permutation(np.arange(number) % 10)
    images = []
    for _ in range(number):
        file = io.BytesIO()
        pixels = rng.integers(0, 256, size=(*rng.integers(160, 280, size=2), 3), dtype=np.uint8)
        PILImage.fromarray(pixels).save(file, format="PNG", compress_level=0)
        images.append({"bytes": file.getvalue(), "path": None})
    features = Features(image=Image(), label=ClassLabel(names=NAMES), caption=Value("string"))
    captions = [f"what stands beside row {row} and nobody needs" for row in range(number)]
    return Dataset.from_dict({"image": images, "label": labels.tolist(), "caption": captions}, features=features)


def shards(split: Dataset, name: str, number: int) -> dict[str, bytes]:
    files = {}
    for shard in range(number):
        file = io.BytesIO()
        split.shard(number, shard, contiguous=True).to_parquet(file)
        files[f"data/{name}-{shard:05}-of-{number:05}.parquet"] = file.getvalue()
    return files


def label_bytes(files: dict[str, bytes]) -> int:
    total = 0
    for content in files.values():
        metadata = pq.read_metadata(io.BytesIO(content))
        for number in range(metadata.num_row_groups):
            columns = [metadata.row_group(number).column(column) for column in range(metadata.num_columns)]
            total += sum(column.total_compressed_size for column in columns if column.path_in_schema == "label")
    return total


def test_what_crosses_is_little_more_than_the_images_needed(tmp_path):
    train, files = {}, {}
    for layout, is_sorted in LAYOUTS.items():
        train[layout] = photos(120, is_sorted)
        files[layout] = {**shards(train[layout], "train", 4), **shards(photos(40, is_sorted), "test", 2)}
    with HubServer() as hub:
        for layout in LAYOUTS:
            hub.add_repo(f"tester/{layout}", {"README.md": b"# Photographs\n", **files[layout]}, dataset=True)
        environ = {**os.environ, **hub.environ(tmp_path / "hf_home"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        process = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environ, capture_output=True, text=True, timeout=600
        )
    assert process.returncode == 0, process.stderr
    for layout, result in json.loads(process.stdout.splitlines()[-1]).items():
        assert result["sizes"] == {"forget": 12, "retain": 24, "forget_test": 4, "retain_test": 24}
        forgotten = train[layout].filter(lambda label: label == 3, input_columns=["label"])
        assert result["forget"] == [pixel_sha256(np.array(image)) for image in forgotten["image"]]
        crossed = sum(number for path, number in hub.sent.items() if layout in path)
        assert crossed <= 1.5 * (result["bytes"] + label_bytes(files[layout])), layout
        assert crossed < 0.5 * sum(map(len, files[layout].values())), layout
