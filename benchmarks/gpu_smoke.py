"""Every CUDA kernel once on small, odd sizes: what `make gpu-check` runs under compute-sanitizer."""

from __future__ import annotations

import torch

from ald_ext import ops


def run(dtype: torch.dtype) -> None:
    """Steps of a list with empty and unaligned tensors, likelihood and dequantization, forward and backward."""
    device = "cuda"
    params = [torch.randn(n + 1, device=device, dtype=dtype)[1:] for n in (1, 0, 63, 64, 1000, 5001)]
    grads = [torch.randn_like(p) for p in params]
    square_avgs = [torch.rand_like(p) for p in params]
    ops.sgld_step_(params, grads, lr=1e-3, seed=1, step=1)
    ops.psgld_step_(params, grads, square_avgs, lr=1e-3, seed=1, step=2, offsets=[0, 0, 5, 0, 1, 0])
    ops.psgld_step_(params, grads, square_avgs, lr=1e-3, seed=1, step=3, temperature=0.0, adapt=False)
    ops.normal(777, seed=1, step=1, offset=3, dtype=dtype, device=device)

    x, mean = (torch.randn(3, 5001, device=device, dtype=dtype, requires_grad=True) for _ in range(2))
    ops.marginal_gaussian_log_prob(x, mean).sum().backward()
    pixels = torch.randint(0, 256, (3, 5001), device=device, dtype=torch.uint8)
    y = ops.langevin_dequantize(pixels, mean)
    y.sum().backward()
    assert torch.equal(ops.quantize(y), pixels)


if __name__ == "__main__":
    for dtype in (torch.float32, torch.float64):
        run(dtype)
    torch.cuda.synchronize()
    print("every kernel ran")
