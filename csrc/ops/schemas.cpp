// Every op of torch.ops.ald_ext. ald_ext/ops documents them, and registers their fake and autograd kernels.
#include <torch/csrc/stable/library.h>

#include <string>

#include "../math/settings.h"

namespace {

std::string own_argument(const ald_ext::OwnSetting<double>& setting) { return std::string("float ") + setting.name; }

std::string own_argument(const ald_ext::OwnSetting<std::int64_t>& setting) {
    return std::string("int ") + setting.name;
}

template <typename Step>
std::string step_schema(const std::string& overload, const std::string& lr, const std::string& number) {
    std::string schema = Step::name + overload + "(Tensor(a!)[] params, Tensor[] grads, ";
    char alias = 'b';
    for (int k = 0; k < ald_ext::state_count<Step>; ++k) {
        const bool is_written = k < ald_ext::written_states<Step>;
        schema +=
            std::string("Tensor") + (is_written ? std::string("(") + alias++ + "!)" : "") + "[] " + Step::states[k];
        schema += ", ";
    }
    schema += lr + " lr, float num_data, float temperature, float weight_decay, bool maximize, ";
    std::apply([&](const auto&... setting) { ((schema += own_argument(setting) + ", "), ...); }, Step::own_settings);
    return schema + "int seed, " + number +
           " step, int[] noise_ids, int[] offsets, int[] row_lengths=[], int[] row_strides=[]) -> ()";
}

}  // namespace

STABLE_TORCH_LIBRARY(ald_ext, m) {
    m.def("normal_(Tensor(a!) out, *, int seed, int step, int parameter=0, int offset=0) -> ()");
    ald_ext::for_each_step([&](auto step) {
        m.def(step_schema<decltype(step)>("", "float", "int").c_str());
        // lr and step as tensors, read where the step runs: for torch.compile and CUDA graphs.
        m.def(step_schema<decltype(step)>(".tensor", "Tensor", "Tensor").c_str());
    });
    // Rows of latent variables, each with the noise of its datum.
    m.def("latent_normal_(Tensor(a!) out, Tensor index, *, int seed, int step, int offset=0) -> ()");
    m.def(
        "latent_langevin_step_(Tensor(a!) z, Tensor grad, Tensor index, *, float lr, float temperature, int seed, "
        "int step, int offset=0) -> ()");
    m.def(
        "latent_underdamped_step_(Tensor(a!) z, Tensor(b!) momenta, Tensor grad, Tensor index, *, float lr, "
        "float momentum, float temperature, int seed, int step, int offset=0) -> ()");
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
