# /// script
# dependencies = ["hf-unlearn"]
# ///
"""
Unlearn an image classifier, on one process or many:

    accelerate launch scripts/unlearn.py \
        --model_name_or_path org/model --dataset_name org/data --forget_class cat --output_dir out

The flags are those of `hf-unlearn run`.
"""

import sys

from hf_unlearn.commands.main import main


if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
