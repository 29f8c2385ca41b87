// What the CPU and the CUDA registration have in common.
#pragma once

#include <torch/csrc/stable/library.h>

#include "arguments.h"

namespace ald_ext::ops {

// The two step ops of a device; Device::run_step<Scalar>(arguments) does the work.
template <typename Device>
struct StepOps {
    static void run(const StepArguments& arguments) {
        if (arguments.type == ScalarType::Float) {
            Device::template run_step<float>(arguments);
        } else {
            Device::template run_step<double>(arguments);
        }
    }

    static void sgld_step_(const std::vector<Tensor>& params, const std::vector<Tensor>& grads, double lr,
                           double num_data, double temperature, double weight_decay, bool maximize, std::int64_t seed,
                           std::int64_t step, const std::vector<std::int64_t>& parameters,
                           const std::vector<std::int64_t>& offsets) {
        const LangevinSettings settings{lr, weight_decay, temperature, num_data, maximize, 0.0, 0.0, false};
        run(check_step("ald_ext::sgld_step_", params, grads, nullptr, parameters, offsets, seed, step, settings));
    }

    static void psgld_step_(const std::vector<Tensor>& params, const std::vector<Tensor>& grads,
                            const std::vector<Tensor>& square_avgs, double lr, double num_data, double temperature,
                            double weight_decay, bool maximize, double alpha, double eps, bool adapt, std::int64_t seed,
                            std::int64_t step, const std::vector<std::int64_t>& parameters,
                            const std::vector<std::int64_t>& offsets) {
        const LangevinSettings settings{lr, weight_decay, temperature, num_data, maximize, alpha, eps, adapt};
        run(check_step("ald_ext::psgld_step_", params, grads, &square_avgs, parameters, offsets, seed, step, settings));
    }
};

}  // namespace ald_ext::ops

// Registers the kernels of one device: the functions of that device's translation unit, and StepOps<Device>.
#define ALD_EXT_REGISTER_KERNELS(m, Device)                                                         \
    using namespace ald_ext::ops;                                                                   \
    m.impl("normal_", TORCH_BOX(&normal_));                                                         \
    m.impl("sgld_step_", TORCH_BOX(&StepOps<Device>::sgld_step_));                                  \
    m.impl("psgld_step_", TORCH_BOX(&StepOps<Device>::psgld_step_));                                \
    m.impl("marginal_gaussian_log_prob", TORCH_BOX(&marginal_gaussian_log_prob));                   \
    m.impl("marginal_gaussian_log_prob_backward", TORCH_BOX(&marginal_gaussian_log_prob_backward)); \
    m.impl("langevin_dequantize", TORCH_BOX(&langevin_dequantize));                                 \
    m.impl("langevin_dequantize_backward", TORCH_BOX(&langevin_dequantize_backward));               \
    m.impl("quantize", TORCH_BOX(&quantize));
