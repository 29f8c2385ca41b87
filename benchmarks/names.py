"""Names that the result files, the page and the README have in common."""

OURS = "ald_ext op"
FORWARD, BACKWARD = f"{OURS}, forward alone", f"{OURS}, backward alone"
NO_NOISE, NOISE_ALONE = f"{OURS}, no noise", "ald_ext noise alone"
PSGLD, SGLD = "ald_ext.PSGLD", "ald_ext.SGLD"
PLAIN, IN_PLACE, FOREACH, COMPILED = "plain PyTorch", "in-place PyTorch", "torch._foreach", "torch.compile"
TWO_LOGS, UNSTABLE_TAILS = ", two logs", ", unstable tails"
ADAM, SGD, RMSPROP = "Adam(fused=True)", "SGD(fused=True)", "RMSprop(foreach=True)"
NORMAL, COPY = "normal_ alone", "copy_"

UPDATE, LIKELIHOOD, DEQUANTIZATION, QUANTIZATION = "update", "marginal likelihood", "dequantization", "quantization"
DTENSORS, COLUMNS = "update of DTensors", ", columns"
CUDA_GRAPH = "CUDA graph"
IN_TENSORS = "1e4 in 32 tensors"
#: Measured on CUDA only: 81380 x 3072 float32 values are 1.0 GB.
GIGABYTE_SHAPE = (81380, 3072)
GIGABYTE = f"{GIGABYTE_SHAPE[0]} x {GIGABYTE_SHAPE[1]}"

#: Steps of training: ours, and loops in plain PyTorch, which differ in how they write the pSGLD step.
OUR_STEP, OUR_COMPILED_STEP, PLAIN_LOOP = "ours", "ours, compiled", "PyTorch"
COMPILED_OUR_LAYERS = "torch.compile, our layers"
PLAIN_STEP, FOREACH_STEP, IN_PLACE_STEP = "PyTorch, plain step", "PyTorch, foreach step", "PyTorch, step in place"
OUR_VAE_STEP = f"{OUR_STEP}, vae"
MLP, CONV = "mlp, batch 100", "conv, batch 50"
