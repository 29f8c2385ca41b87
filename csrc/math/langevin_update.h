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
//
// Note [The thermostat]
// SGNHT (Ding et al. 2014): the friction of a step is a + x, where a is the diffusion and x an excess for each element,
// so that mu = exp(-a), and O becomes, symmetrically,
//     x <- x + a^2/8 (p^2 N/T - 1)
//     p <- exp(-x/2) p
//     p <- mu p + sqrt((1 - mu^2) T / N) xi              (O)
//     p <- exp(-x/2) p
//     x <- x + a^2/8 (p^2 N/T - 1)
// BADODAB of Leimkuhler & Shang 2016 with its half kicks made one. p ~ N(0, T/N), x ~ N(0, a^2/4) if gradients have no
// noise. With T = 0 x stays; with lr = 0 both stay.
//
// Note [Anchors]
// An anchored step has g + localization / N (theta - anchor) in the place of g, a Gaussian prior around the anchor.
#pragma once

#include "config.h"
#include "elementary.h"
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
    Scalar half_time;                       // 1/2; 0 if no time goes by
    Scalar heating, half_thermostat;        // a^2/8 N/T, a^2/8
    Scalar pull;                            // localization / N, with the sign of the gradient
};

template <typename Scalar>
ALD_EXT_INLINE StepScalars<Scalar> make_step_scalars(const LangevinSettings& settings) {
    const double noise_variance = 2.0 * settings.lr * settings.temperature / settings.num_data;
    const double duration = square_root(settings.lr);
    const bool moves = settings.lr > 0.0;
    const double kept = settings.diffusion > 0.0 ? exp_negative(settings.diffusion) : settings.momentum;
    const double momentum = moves ? kept : 1.0;
    const double momentum_variance = (1.0 - momentum) * (1.0 + momentum) * settings.temperature / settings.num_data;
    const bool heats = moves && settings.temperature > 0.0;
    const double half_thermostat = heats ? settings.diffusion * settings.diffusion / 8.0 : 0.0;
    const double heating = heats ? half_thermostat * settings.num_data / settings.temperature : 0.0;
    StepScalars<Scalar> step;
    step.lr = static_cast<Scalar>(settings.lr);
    step.weight_decay = static_cast<Scalar>(settings.weight_decay);
    step.gradient_sign = settings.maximize ? Scalar(-1) : Scalar(1);
    step.noise_scale = static_cast<Scalar>(square_root(noise_variance));
    step.alpha = static_cast<Scalar>(settings.alpha);
    step.one_minus_alpha = static_cast<Scalar>(1.0 - settings.alpha);
    step.eps = static_cast<Scalar>(settings.eps);
    step.kick = static_cast<Scalar>(duration);
    step.half_drift = static_cast<Scalar>(duration / 2.0);
    step.momentum = static_cast<Scalar>(momentum);
    step.momentum_noise_scale = static_cast<Scalar>(square_root(momentum_variance));
    step.half_time = moves ? Scalar(0.5) : Scalar(0);
    step.heating = static_cast<Scalar>(heating);
    step.half_thermostat = static_cast<Scalar>(half_thermostat);
    step.pull = step.gradient_sign * static_cast<Scalar>(settings.localization / settings.num_data);
    return step;
}

template <typename Scalar>
ALD_EXT_INLINE Scalar decayed_gradient(Scalar theta, Scalar gradient, const StepScalars<Scalar>& step) {
    return fused_multiply_add(step.weight_decay, theta, step.gradient_sign * gradient);
}

// Note [The update of a step]
// Update<Step>::prepare does what needs no noise, and finish, which is given prepare's result, gives the new theta.
// prepare_writes and finish_writes say which of them changes the states, state.of[0] and so on. Update<Step>::Frozen is
// the update once the step number has passed freeze_after.
template <typename Step>
struct Update;

template <>
struct Update<Sgld> {
    using Frozen = Update;
    static constexpr bool prepare_writes = false, finish_writes = false;

    template <typename Scalar>
    static ALD_EXT_INLINE Scalar prepare(Scalar, Scalar, States<Scalar>&, const StepScalars<Scalar>&) {
        return Scalar(0);
    }

    template <typename Scalar>
    static ALD_EXT_INLINE Scalar finish(Scalar theta, Scalar gradient, Scalar xi, Scalar, States<Scalar>&,
                                        const StepScalars<Scalar>& step) {
        const Scalar g = decayed_gradient(theta, gradient, step);
        return theta + fused_multiply_add(-step.lr, g, step.noise_scale * xi);
    }
};

template <bool adapt>
struct PsgldUpdate {
    using Frozen = PsgldUpdate<false>;
    static constexpr bool prepare_writes = adapt, finish_writes = false;

    // Updates v, and gives sqrt(G), which serves drift and noise; it is 0, not NaN, where v has overflown.
    template <typename Scalar>
    static ALD_EXT_INLINE Scalar prepare(Scalar theta, Scalar gradient, States<Scalar>& state,
                                         const StepScalars<Scalar>& step) {
        Scalar& v = state.of[0];
        const Scalar g = decayed_gradient(theta, gradient, step);
        if (adapt) v = fused_multiply_add(step.alpha, v, step.one_minus_alpha * g * g);
        return Scalar(1) / square_root(square_root(v) + step.eps);
    }

    template <typename Scalar>
    static ALD_EXT_INLINE Scalar finish(Scalar theta, Scalar gradient, Scalar xi, Scalar root, States<Scalar>&,
                                        const StepScalars<Scalar>& step) {
        const Scalar g = decayed_gradient(theta, gradient, step);
        return fused_multiply_add(root, fused_multiply_add(root, -step.lr * g, step.noise_scale * xi), theta);
    }
};

template <>
struct Update<Psgld> : PsgldUpdate<true> {};

template <>
struct Update<Sghmc> {
    using Frozen = Update;
    static constexpr bool prepare_writes = false, finish_writes = true;

    // B of Note [Underdamped steps]: the kicked p.
    template <typename Scalar>
    static ALD_EXT_INLINE Scalar prepare(Scalar theta, Scalar gradient, States<Scalar>& state,
                                         const StepScalars<Scalar>& step) {
        return fused_multiply_add(-step.kick, decayed_gradient(theta, gradient, step), state.of[0]);
    }

    // What follows B; both half drifts at once, for one rounding.
    template <typename Scalar>
    static ALD_EXT_INLINE Scalar finish(Scalar theta, Scalar, Scalar xi, Scalar kicked, States<Scalar>& state,
                                        const StepScalars<Scalar>& step) {
        Scalar& p = state.of[0];
        p = fused_multiply_add(step.momentum, kicked, step.momentum_noise_scale * xi);
        return fused_multiply_add(step.half_drift, kicked + p, theta);
    }
};

template <>
struct Update<Sgnht> : Update<Sghmc> {
    using Frozen = Update;

    // Note [The thermostat] in the place of O.
    template <typename Scalar>
    static ALD_EXT_INLINE Scalar finish(Scalar theta, Scalar, Scalar xi, Scalar kicked, States<Scalar>& state,
                                        const StepScalars<Scalar>& step) {
        Scalar& p = state.of[0];
        Scalar& x = state.of[1];
        x += fused_multiply_add(step.heating * kicked, kicked, -step.half_thermostat);
        const Scalar half_friction = step.half_time * x;
        const Scalar size = half_friction < Scalar(0) ? -half_friction : half_friction;
        const Scalar damping = exp_negative(size);
        const Scalar kept = half_friction < Scalar(0) ? Scalar(1) / damping : damping;
        p = kept * fused_multiply_add(step.momentum * kept, kicked, step.momentum_noise_scale * xi);
        x += fused_multiply_add(step.heating * p, p, -step.half_thermostat);
        return fused_multiply_add(step.half_drift, kicked + p, theta);
    }
};

// Note [Anchors], of the step that Base updates; the anchor comes after its states.
template <typename Base, int anchor>
struct AnchoredUpdate {
    using Frozen = AnchoredUpdate<typename Base::Frozen, anchor>;
    static constexpr bool prepare_writes = Base::prepare_writes, finish_writes = Base::finish_writes;

    template <typename Scalar>
    static ALD_EXT_INLINE Scalar pulled(Scalar theta, Scalar gradient, const States<Scalar>& state,
                                        const StepScalars<Scalar>& step) {
        return fused_multiply_add(step.pull, theta - state.of[anchor], gradient);
    }

    template <typename Scalar>
    static ALD_EXT_INLINE Scalar prepare(Scalar theta, Scalar gradient, States<Scalar>& state,
                                         const StepScalars<Scalar>& step) {
        return Base::prepare(theta, pulled(theta, gradient, state, step), state, step);
    }

    template <typename Scalar>
    static ALD_EXT_INLINE Scalar finish(Scalar theta, Scalar gradient, Scalar xi, Scalar prepared,
                                        States<Scalar>& state, const StepScalars<Scalar>& step) {
        return Base::finish(theta, pulled(theta, gradient, state, step), xi, prepared, state, step);
    }
};

template <typename Base>
struct Update<Anchored<Base>> : AnchoredUpdate<Update<Base>, state_count<Base>> {};

ALD_EXT_MATH_END
