// Every op of torch.ops.ald_ext. ald_ext/ops.py documents them, and registers their fake and autograd kernels.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(ald_ext, m) {
    m.def("normal_(Tensor(a!) out, *, int seed, int step, int parameter=0, int offset=0) -> ()");
    m.def(
        "sgld_step_(Tensor(a!)[] params, Tensor[] grads, *, float lr, float num_data, float temperature, "
        "float weight_decay, bool maximize, int seed, int step, int[] noise_ids, int[] offsets) -> ()");
    m.def(
        "psgld_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] square_avgs, *, float lr, float num_data, "
        "float temperature, float weight_decay, bool maximize, float alpha, float eps, int freeze_after, int seed, "
        "int step, int[] noise_ids, int[] offsets) -> ()");
    m.def(
        "sghmc_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momenta, *, float lr, float num_data, "
        "float temperature, float weight_decay, bool maximize, float momentum, int seed, int step, int[] noise_ids, "
        "int[] offsets) -> ()");
    // lr and step as tensors, read where the step runs: for torch.compile and CUDA graphs.
    m.def(
        "sgld_step_.tensor(Tensor(a!)[] params, Tensor[] grads, *, Tensor lr, float num_data, float temperature, "
        "float weight_decay, bool maximize, int seed, Tensor step, int[] noise_ids, int[] offsets) -> ()");
    m.def(
        "psgld_step_.tensor(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] square_avgs, *, Tensor lr, "
        "float num_data, float temperature, float weight_decay, bool maximize, float alpha, float eps, "
        "int freeze_after, int seed, Tensor step, int[] noise_ids, int[] offsets) -> ()");
    m.def(
        "sghmc_step_.tensor(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momenta, *, Tensor lr, float num_data, "
        "float temperature, float weight_decay, bool maximize, float momentum, int seed, Tensor step, "
        "int[] noise_ids, int[] offsets) -> ()");
    // Rows of latent variables, each with the noise of its datum.
    m.def("latent_normal_(Tensor(a!) out, Tensor index, *, int seed, int step) -> ()");
    m.def(
        "latent_langevin_step_(Tensor(a!) z, Tensor grad, Tensor index, *, float lr, float temperature, int seed, "
        "int step) -> ()");
    m.def(
        "latent_underdamped_step_(Tensor(a!) z, Tensor(b!) momenta, Tensor grad, Tensor index, *, float lr, "
        "float momentum, float temperature, int seed, int step) -> ()");
    m.def(
        "marginal_gaussian_log_prob(Tensor x, Tensor mean, float shape, float rate) -> "
        "(Tensor log_prob, Tensor squared_distance)");
    m.def(
        "marginal_gaussian_log_prob_backward(Tensor grad, Tensor x, Tensor mean, Tensor squared_distance, float shape, "
        "float rate, bool need_x, bool need_mean) -> Tensor");
    m.def("langevin_dequantize(Tensor x, Tensor h, int bits=8) -> Tensor");
    m.def("langevin_dequantize_backward(Tensor grad, Tensor x, Tensor h, int bits=8) -> Tensor");
    // Both in one pass; the backward gives the gradients for h and for the mean, stacked.
    m.def(
        "dequantized_log_prob(Tensor x, Tensor h, Tensor mean, float shape, float rate, int bits=8) -> "
        "(Tensor y, Tensor log_prob, Tensor squared_distance)");
    m.def(
        "dequantized_log_prob_backward(Tensor grad, Tensor x, Tensor h, Tensor mean, Tensor y, "
        "Tensor squared_distance, float shape, float rate, int bits=8) -> Tensor");
    m.def("quantize(Tensor y, int bits=8) -> Tensor");
}
