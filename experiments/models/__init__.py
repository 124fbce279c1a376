"""Networks of the paper's experiments."""

from experiments.models.classifiers import (
  CNN,
  OUTPUT,
  OUTPUT_RULES,
  ImageNetResNet,
  ResNet,
  build,
)

__all__ = [
  "CNN",
  "OUTPUT",
  "OUTPUT_RULES",
  "ImageNetResNet",
  "ResNet",
  "build",
]
