"""The training kernels of the `cuda` backend; see `backends.TrainingKernels`."""

from __future__ import annotations

from .cuda_losses import squared_error as squared_error
from .cuda_losses import ssim_and_l1 as ssim_and_l1
from .cuda_optim import adam as adam
