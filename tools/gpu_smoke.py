"""Every CUDA kernel once on small, odd sizes: what `make gpu-check` runs under compute-sanitizer."""

import torch

import ald_ext
from ald_ext import ops
from benchmarks.plain_psgld import state_dtype

DEVICE = torch.device("cuda")
LR = 1e-3
NUMELS = (1, 0, 63, 64, 1000, 5001)
#: One row and many, shorter and longer than a block.
SHAPES = ((3, 5001), (1, 100_003), (1003, 1), (257, 10))


def run_steps(dtype: torch.dtype) -> None:
    """Steps of a list with empty and unaligned tensors."""
    params = [torch.randn(n + 1, device=DEVICE, dtype=dtype)[1:] for n in NUMELS]
    grads = [torch.randn_like(p) for p in params]
    square_avgs = [torch.rand(p.shape, device=DEVICE, dtype=state_dtype(dtype)) for p in params]
    ops.sgld_step_(params, grads, lr=LR, seed=1, step=1)
    ops.psgld_step_(params, grads, square_avgs, lr=LR, seed=1, step=2, offsets=[0, 0, 5, 0, 1, 0])
    ops.psgld_step_(params, grads, square_avgs, lr=LR, seed=1, step=3, temperature=0.0, freeze_after=-1)


def run_batches(dtype: torch.dtype) -> None:
    """Noise, likelihood and dequantization, forward and backward."""
    ops.normal(777, seed=1, step=1, offset=3, dtype=dtype, device=DEVICE)
    for shape in SHAPES:
        x, mean = (torch.randn(shape, device=DEVICE, dtype=dtype, requires_grad=True) for _ in range(2))
        ops.marginal_gaussian_log_prob(x, mean).sum().backward()
        pixels = torch.randint(0, 256, shape, device=DEVICE, dtype=torch.uint8)
        y = ops.langevin_dequantize(pixels, mean)
        y.sum().backward()
        assert torch.equal(ops.quantize(y), pixels)
        ops.dequantized_log_prob(pixels, x, mean)[1].sum().backward()


def run_capturable() -> None:
    """The optimizers as a CUDA graph needs them, outside of a graph, with step and learning rate on the device."""
    for optimizer_class in (ald_ext.SGLD, ald_ext.PSGLD):
        params = [torch.randn(n, device=DEVICE, requires_grad=True) for n in NUMELS]
        for param in params:
            param.grad = torch.randn_like(param)
        optimizer = optimizer_class(params, torch.tensor(LR, device=DEVICE), num_data=10, capturable=True)
        optimizer.step()
        optimizer.step()


def main() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        run_steps(dtype)
    for dtype in (torch.float32, torch.float64):
        run_batches(dtype)
    run_capturable()
    torch.cuda.synchronize()
    print("every kernel ran")


if __name__ == "__main__":
    main()
