// The Gaussian likelihood of one datum with its precision integrated out (paper: Appendix B).
//
// With r^2 = |x - mean|^2, d the dimension of x and the precision lambda ~ Gamma(a, b), density proportional to
// lambda^(a - 1) exp(-b lambda):
//     log p = C - (a + d/2) log(b + r^2 / 2),
//     C = lgamma(a + d/2) - (d/2) log(2 pi)  [+ a log b - lgamma(a) where b > 0: the prior is proper]
// a = 1, b = 0 is the flat prior d lambda (Eqs. 19-22), a = b = 0 the Jeffreys prior d lambda / lambda.
//
// Note [x equal to the mean]
// With b = 0, log p goes to +infinity as r goes to 0. r^2 is therefore held at 2^-100 or above: x = mean gives the
// finite value at that distance and gradient zero.
//
// Note [Order of the sum]
// r^2 is summed in segments of 4096 elements; in a segment, lane l of 64 adds elements l, l + 64, ... in order, the
// lanes are added in a binary tree, and the segments in order, in double. So the bits depend on nothing but the data.
#pragma once

#include "elementary.h"
#include "settings.h"

ALD_EXT_MATH_BEGIN

constexpr int reduction_lanes = 64;
constexpr std::int64_t reduction_segment = 4096;
// At least one, so that an empty row has a sum too: zero.
ALD_EXT_INLINE std::int64_t segments_of_row(std::int64_t dimension) {
    return dimension <= reduction_segment ? 1 : (dimension + reduction_segment - 1) / reduction_segment;
}

constexpr double smallest_squared_distance = 0x1p-100;

template <typename Scalar>
ALD_EXT_INLINE Scalar add_squared_difference(Scalar sum, Scalar x, Scalar mean) {
    const Scalar difference = x - mean;
    return fused_multiply_add(difference, difference, sum);
}

// On the host: lgamma is libm's.
inline MarginalGaussian make_marginal_gaussian(const PrecisionPrior& prior, std::int64_t dimension) {
    const double half_dimension = 0.5 * static_cast<double>(dimension);
    const double log_two_pi = 0x1.d67f1c864beb5p+0;
    double constant = std::lgamma(prior.shape + half_dimension) - half_dimension * log_two_pi;
    if (prior.rate > 0.0) constant += prior.shape * std::log(prior.rate) - std::lgamma(prior.shape);
    return {constant, prior.shape + half_dimension, prior.rate};
}

ALD_EXT_INLINE double bounded_squared_distance(double squared_distance) {
    return squared_distance < smallest_squared_distance ? smallest_squared_distance : squared_distance;
}

ALD_EXT_INLINE double marginal_gaussian_log_prob(const MarginalGaussian& density, double squared_distance) {
    const double scale = density.rate + 0.5 * bounded_squared_distance(squared_distance);
    return density.constant - density.exponent * log_positive(scale);
}

// c in grad_x log p = c (x - mean) = -grad_mean log p.
ALD_EXT_INLINE double marginal_gaussian_score_factor(const MarginalGaussian& density, double squared_distance) {
    const double scale = density.rate + 0.5 * squared_distance;
    return squared_distance < smallest_squared_distance ? 0.0 : -density.exponent / scale;
}

ALD_EXT_MATH_END
