"""
How fast is the update? The numbers of docs/performance.md, each a ratio measured in one run:

    export OMP_NUM_THREADS=2
    python -m scripts.benchmarks.performance.run update        # about three minutes on two CPU cores
    python -m scripts.benchmarks.performance.run update --models vit-tiny --batch_sizes 1 --repeats 1        # one
    hf-unlearn demo --output_dir demo
    python -m scripts.benchmarks.performance.run auto --model_name_or_path demo/digits-original \\
        --dataset_name demo/digits
    python -m scripts.benchmarks.performance.run overhead      # and the other parts
    python -m scripts.benchmarks.performance.run update --models vit-base --batch_sizes 64 --device cuda     # on a GPU

Of the update (update.py):

- `update`: the loop as the authors of arXiv 2402.01401 released it, written from its definition, against the loss as
  `JiTTrainer` calls it, each with its backward pass, on models built from their configurations;
- `grid`: the same for four models, two sizes of images and batches from 1 to 256;
- `layout`: weights channels-last against the usual order, by the size of the images;
- `chunks`: a forward pass by the number of images that share it;
- `compile`: a forward pass with torch.compile;
- `memory`: peak memory of one update against that of a fine-tuning step of the same batch.

Of whole runs (whole_runs.py):

- `auto`: a whole run of the automatic step, from raw images to the end, with and without what is kept between passes,
  against one pass of the released loop with its 25 perturbations;
- `loading`: the first pass over raw images, with and without loader workers;
- `precision`: what perturbed passes in bfloat16 change in the result, on the networks of
  auto_step/train_networks.py (`--models_dir`);
- `growth`: time and memory against the number of forget images, of perturbations, and the size of the images.

Of what surrounds the updates (trainer_loop.py, startup.py):

- `overhead`: the training loop of the Trainer against a bare one, on the network of the demo;
- `processes`: the updates of a run on one process and on two (`updates`, on as many as were started);
- `whole`: the whole command for one class on one process and on two, one thread each (`command`, on as many as were
  started; whole_processes.py);
- `startup`: `hf-unlearn --help`, and from the command to the first update of a model that is on disk.

All ways of a part alternate (A B C A B C …); what is written are medians, and medians of the ratios of each round. On one
CPU thread it is processor time that is measured, which other work on the machine disturbs less; else time by the clock.
A GPU is used if there is one, `--device cpu` keeps to the CPU.
"""

import argparse
import gc
from pathlib import Path

import torch
import transformers

from scripts.benchmarks.networks import be_quiet
from scripts.benchmarks.performance.models import MODELS
from scripts.benchmarks.performance.startup import measure_startup
from scripts.benchmarks.performance.trainer_loop import measure_overhead, measure_processes, measure_updates
from scripts.benchmarks.performance.update import (
    measure_chunks,
    measure_compile,
    measure_grid,
    measure_layout,
    measure_memory,
    measure_update,
)
from scripts.benchmarks.performance.whole_processes import measure_whole, run_command
from scripts.benchmarks.performance.whole_runs import (
    measure_auto,
    measure_growth,
    measure_loading,
    measure_precision,
)


PARTS = {
    "update": measure_update,
    "grid": measure_grid,
    "layout": measure_layout,
    "chunks": measure_chunks,
    "compile": measure_compile,
    "memory": measure_memory,
    "auto": measure_auto,
    "loading": measure_loading,
    "precision": measure_precision,
    "overhead": measure_overhead,
    "processes": measure_processes,
    "updates": measure_updates,
    "growth": measure_growth,
    "startup": measure_startup,
    "whole": measure_whole,
    "command": run_command,
}

if __name__ == "__main__":
    # As the command does: a Trainer collects garbage once a run, and would look through all that was imported.
    gc.freeze()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["vit-tiny", "resnet-18"])
    parser.add_argument("--image_sizes", nargs="+", type=int, default=[224], help="Most parts take the first.")
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[8])
    parser.add_argument("--num_perturbations", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model_name_or_path", default="demo/digits-original")
    parser.add_argument("--dataset_name", default="demo/digits")
    parser.add_argument("--forget_class", default="3", help="Of `whole`.")
    parser.add_argument("--num_images", type=int, default=200, help="Of a run.")
    parser.add_argument("--jpeg_size", type=int, help="The images become photographs of this width.")
    parser.add_argument("--models_dir", type=Path, default=Path("models"), help="Of `precision`.")
    parser.add_argument("--growth_images", nargs="+", type=int, default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--output_dir", type=Path, default=Path("docs/performance"))
    transformers.utils.logging.set_verbosity_error()
    be_quiet()
    PARTS[(options := parser.parse_args()).part](options)
