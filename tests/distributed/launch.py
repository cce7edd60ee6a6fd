"""Starts a script of this folder on two processes."""

import os
import subprocess
import sys
from pathlib import Path

import torch


ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}


def run_on_two_processes(script: str, folder: Path, config: Path | None = None) -> list:
    """
    What each of two processes wrote into the folder as `rank0.pt` and `rank1.pt`. They are started by torchrun, or by
    `accelerate launch` as its configuration file says.
    """
    launcher = ["torchrun", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*(["accelerate", "launch", "--config_file", str(config)] if config else launcher), script, str(folder)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    written = sorted(folder.glob("rank*.pt"))
    assert len(written) == 2, done.stderr
    return [torch.load(path, weights_only=False) for path in written]
