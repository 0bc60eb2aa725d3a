"""All that this project uses of torch beyond its documented interface, with the reason.

`tests/slm_model/numerics/test_torch_private.py` fails when a new version of torch moves any of it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def skip_instruction_probes() -> AbstractContextManager[object]:
    """Trust that the C++ compiler can use the vector instructions that the CPU has.

    Before its first kernel, torch compiles a test program for each kind of vector instructions: a third of the time of
    a first compilation.
    """
    from torch._inductor import config

    skipped: AbstractContextManager[object] = config.patch({"cpp.vec_isa_ok": config.cpp.vec_isa_ok is not False})
    return skipped


def has_onednn_linear() -> bool:
    """Whether this torch was built with oneDNN."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(x_ND: Tensor, weight_ED: Tensor) -> Tensor:
    """``x_ND @ weight_ED.T`` by oneDNN, which multiplies large matrices in half of the time that MKL takes."""
    y_NE: Tensor = torch.ops.mkldnn._linear_pointwise(x_ND, weight_ED, None, "none", [], "")
    return y_NE
