// Plain values that cross from csrc/ops to the loops of any instruction set or device.
#pragma once

#include <cstdint>

namespace ald_ext {

enum class StepKind { sgld, psgld, sghmc };

// One step of a group of parameters, as in ald_ext.PSGLD and ald_ext.SGHMC. alpha, eps and freeze_after are pSGLD's,
// momentum is SGHMC's.
struct LangevinSettings {
    double lr, weight_decay, temperature, num_data;
    bool maximize;
    double alpha, eps;
    std::int64_t freeze_after;  // the last step at which the preconditioner adapts
    double momentum = 0.0;
};

// Where on a device to find lr and step when a captured step runs; null where they are plain numbers.
struct DeviceClock {
    const void* lr = nullptr;  // float or double
    bool lr_is_double = false;
    const std::int64_t* step = nullptr;
};

// What the noise of a range of elements is a function of; `offset` is the range's first element in its parameter.
struct NoiseKey {
    std::int64_t seed, step, parameter, offset;
};

// The same for latent variables: rows of `dimension` elements, row r of the parameter index[r].
struct LatentNoiseKey {
    std::int64_t seed, step;
    const std::int64_t* index;
    std::int64_t dimension;
};

// p(precision) of the marginalized Gaussian: Gamma(shape, rate); rate = 0 stands for the improper priors, flat
// (shape = 1) and Jeffreys (shape = 0).
struct PrecisionPrior {
    double shape, rate;
};

// csrc/math/marginal_gaussian.h
struct MarginalGaussian {
    double constant;  // C
    double exponent;  // a + d/2
    double rate;      // b
};

}  // namespace ald_ext
