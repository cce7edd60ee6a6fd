import pytest
from conftest import make_images

from hf_unlearn import JiTConfig, JiTTrainer
from hf_unlearn.errors import InputError


def test_raw_images_need_a_dataset_with_columns(resnet, image_processor, tmp_path):
    rows = [{"image": image} for image in make_images([0] * 4, seed=0)]
    with pytest.raises(InputError, match="^forget_dataset: has no pixel_values"):
        JiTTrainer(resnet, JiTConfig(output_dir=str(tmp_path)), processing_class=image_processor, forget_dataset=rows)
