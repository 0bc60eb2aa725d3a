"""What is used of torch beyond its documented interface is still where it was, and does what it did.

If a test fails after an upgrade, mend `slm_model/numerics/torch_private.py`.
"""

from __future__ import annotations

import pytest
import torch

from slm_model.numerics.torch_private import has_onednn_linear, onednn_linear, skip_instruction_probes


def test_inductors_probes_of_vector_instructions_are_skipped() -> None:
    from torch._inductor.cpu_vec_isa import VecISA

    probed = []

    class Instructions(VecISA):
        def check_build(self, code: str) -> bool:
            probed.append(code)
            return False

    with skip_instruction_probes():
        assert Instructions(), "torch._inductor.config.cpp.vec_isa_ok no longer decides"
    assert not probed
    assert not Instructions() and probed, "torch._inductor no longer probes: skip_instruction_probes can go"


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN")
def test_onednn_multiplies_matrices() -> None:
    assert has_onednn_linear(), "torch.ops.mkldnn has no _linear_pointwise any more"
    generator = torch.Generator().manual_seed(0)
    x_ND, weight_ED = torch.randn(6, 16, generator=generator), torch.randn(32, 16, generator=generator)
    torch.testing.assert_close(onednn_linear(x_ND, weight_ED), x_ND @ weight_ED.T)
