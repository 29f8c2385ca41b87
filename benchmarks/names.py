"""Names that the cases, the tables and the page share. Imports nothing, so that pages are made without torch."""

from __future__ import annotations

OURS = "ald_ext op"
COPY = "copy_"
NOISE_ALONE = "ald_ext noise alone"
NO_NOISE = "ald_ext op, no noise"
FORWARD, BACKWARD = f"{OURS}, forward alone", f"{OURS}, backward alone"

IN_TENSORS = "1e4 in 32 tensors"
#: Of the likelihood and the dequantization, on CUDA only: 81380 x 3072 float32 values are 1.0 GB.
GIGABYTE_SHAPE = (81380, 3072)
GIGABYTE = f"{GIGABYTE_SHAPE[0]} x {GIGABYTE_SHAPE[1]}"
#: The sizes of "shapes" families that hold a million values.
MILLION_SHAPES = {
    "1 x 1e6": (1, 10**6),
    "10 x 1e5": (10, 10**5),
    "1e3 x 1e3": (10**3, 10**3),
    "1e5 x 10": (10**5, 10),
    "1e6 x 1": (10**6, 1),
}

#: Steps of training: ours, and loops in plain PyTorch, which differ in how they write the pSGLD step.
OUR_STEP, PLAIN_LOOP, COMPILED = "ours", "PyTorch", "torch.compile"
PLAIN_STEP, FOREACH_STEP, IN_PLACE_STEP = "PyTorch, plain step", "PyTorch, foreach step", "PyTorch, step in place"
OUR_VAE_STEP = f"{OUR_STEP}, vae"
MLP_CASE, SMALL_CONV_CASE = "mlp, batch 100", "conv, batch 50"

#: Which variant's time over which one's, by kind of family.
RATIOS = {
    "update": [
        ("plain PyTorch", OURS),
        ("in-place PyTorch", OURS),
        ("torch._foreach", OURS),
        ("torch.compile", OURS),
        ("normal_ alone", OURS),
        ("normal_ alone", NOISE_ALONE),
        (OURS, "Adam(fused=True)"),
        ("ald_ext.PSGLD", "Adam(fused=True)"),
        ("ald_ext.PSGLD", "SGD(fused=True)"),
        ("ald_ext.SGLD", "SGD(fused=True)"),
        ("ald_ext.PSGLD", OURS),
        (COPY, OURS),
    ],
    "marginal likelihood": [
        ("plain PyTorch", OURS),
        ("torch.compile", OURS),
        (COPY, OURS),
        (COPY, FORWARD),
        (COPY, BACKWARD),
    ],
    "dequantization": [
        ("plain PyTorch", OURS),
        ("plain PyTorch, two logs", OURS),
        ("plain PyTorch, unstable tails", OURS),
        ("torch.compile", OURS),
        ("torch.compile, two logs", OURS),
        ("torch.compile, unstable tails", OURS),
        (COPY, OURS),
        (COPY, FORWARD),
        (COPY, BACKWARD),
    ],
    "quantization": [("plain PyTorch", OURS), ("torch.compile", OURS), (COPY, OURS)],
}


def kind_of(family: str) -> str:
    """What a family measures: "update" of "update, float64"."""
    return family.partition(",")[0]
