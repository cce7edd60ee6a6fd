"""
A plugin of pytest, loaded before anything imports transformers: timm needs torchvision, whose wheels are built for CUDA,
and beside the CPU build of torch two of its operators have to be declared. Its transforms run then.
"""

import torch


LIBRARY = torch.library.Library("torchvision", "DEF")
LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
