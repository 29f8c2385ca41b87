// The Langevin updates of one element.
//
// For a loss that is the potential per datum, L = U / N, with g = grad L + weight_decay * theta (gradient_sign = -1
// ascends):
//     v     <- alpha v + (1 - alpha) g^2,      G = 1 / (sqrt(v) + eps)      (SGLD: G = 1)
//     theta <- theta - lr G g + sqrt(2 lr T G / N) xi,      xi ~ N(0, 1)
// Paper: Eq. (6); preconditioner of Li et al. 2016 with V on mean gradients.
//
// Note [Underdamped steps]
// SGHMC with momenta p and h = sqrt(lr):
//     p     <- p - h g                                       (B)
//     theta <- theta + h/2 p                                 (A/2)
//     p     <- mu p + sqrt((1 - mu^2) T / N) xi              (O)
//     theta <- theta + h/2 p                                 (A/2)
// BAOAB of Leimkuhler & Matthews 2013 with its two half kicks, which see the same theta, made one. With lr = 0 no time
// goes by, so p stays too.
#pragma once

#include "config.h"
#include "settings.h"

ALD_EXT_MATH_BEGIN

// The scalars of one step, rounded once from double.
template <typename Scalar>
struct StepScalars {
    Scalar lr, weight_decay, gradient_sign;
    Scalar noise_scale;  // sqrt(2 lr T / N)
    Scalar alpha, one_minus_alpha, eps;
    Scalar kick, half_drift;                // h, h/2
    Scalar momentum, momentum_noise_scale;  // mu, sqrt((1 - mu^2) T / N)
};

template <typename Scalar>
ALD_EXT_INLINE StepScalars<Scalar> make_step_scalars(const LangevinSettings& settings) {
    const double noise_variance = 2.0 * settings.lr * settings.temperature / settings.num_data;
    const double duration = square_root(settings.lr);
    const double momentum = settings.lr > 0.0 ? settings.momentum : 1.0;
    const double momentum_variance = (1.0 - momentum) * (1.0 + momentum) * settings.temperature / settings.num_data;
    return {static_cast<Scalar>(settings.lr),
            static_cast<Scalar>(settings.weight_decay),
            settings.maximize ? Scalar(-1) : Scalar(1),
            static_cast<Scalar>(square_root(noise_variance)),
            static_cast<Scalar>(settings.alpha),
            static_cast<Scalar>(1.0 - settings.alpha),
            static_cast<Scalar>(settings.eps),
            static_cast<Scalar>(duration),
            static_cast<Scalar>(duration / 2.0),
            static_cast<Scalar>(momentum),
            static_cast<Scalar>(square_root(momentum_variance))};
}

template <typename Scalar>
ALD_EXT_INLINE Scalar decayed_gradient(Scalar theta, Scalar gradient, const StepScalars<Scalar>& step) {
    return fused_multiply_add(step.weight_decay, theta, step.gradient_sign * gradient);
}

template <typename Scalar>
ALD_EXT_INLINE Scalar sgld_update(Scalar theta, Scalar gradient, Scalar xi, const StepScalars<Scalar>& step) {
    const Scalar g = decayed_gradient(theta, gradient, step);
    return theta + fused_multiply_add(-step.lr, g, step.noise_scale * xi);
}

// Updates v, and gives sqrt(G), which serves drift and noise; it is 0, not NaN, where v has overflown.
template <bool adapt, typename Scalar>
ALD_EXT_INLINE Scalar root_of_preconditioner(Scalar theta, Scalar gradient, Scalar& square_avg,
                                             const StepScalars<Scalar>& step) {
    const Scalar g = decayed_gradient(theta, gradient, step);
    if (adapt) square_avg = fused_multiply_add(step.alpha, square_avg, step.one_minus_alpha * g * g);
    return Scalar(1) / square_root(square_root(square_avg) + step.eps);
}

template <typename Scalar>
ALD_EXT_INLINE Scalar psgld_update(Scalar theta, Scalar gradient, Scalar root, Scalar xi,
                                   const StepScalars<Scalar>& step) {
    const Scalar g = decayed_gradient(theta, gradient, step);
    return fused_multiply_add(root, fused_multiply_add(root, -step.lr * g, step.noise_scale * xi), theta);
}

// B of Note [Underdamped steps].
template <typename Scalar>
ALD_EXT_INLINE Scalar kicked_momentum(Scalar theta, Scalar gradient, Scalar p, const StepScalars<Scalar>& step) {
    return fused_multiply_add(-step.kick, decayed_gradient(theta, gradient, step), p);
}

// What follows B. Updates the kicked p, and gives theta: both half drifts at once, for one rounding.
template <typename Scalar>
ALD_EXT_INLINE Scalar underdamped_update(Scalar theta, Scalar& p, Scalar xi, const StepScalars<Scalar>& step) {
    const Scalar kicked = p;
    p = fused_multiply_add(step.momentum, kicked, step.momentum_noise_scale * xi);
    return fused_multiply_add(step.half_drift, kicked + p, theta);
}

ALD_EXT_MATH_END
