// Langevin dequantization of one pixel (paper: Appendix C, Eq. 25) and its inverse (Eq. 24).
//
// With x in 0 .. M, M = 2^bits - 1, sigma the logistic function and e = exp(-|h|):
//     y = logit((x + sigma(h)) / 2^bits) = log(x + sigma(h)) - log(M - x + sigma(-h))
//     dy/dh = 2^bits sigma(h) sigma(-h) / ((x + sigma(h)) (M - x + sigma(-h)))
// Both terms are multiplied by 1 + e, which cancels in their ratio and leaves no small difference.
//
// Note [Tails]
// Where x = 0 and h < 0, x + sigma(h) is e / (1 + e): its logarithm is taken as h itself, so y -> -infinity like h and
// never underflows; likewise where x = M and h >= 0. The gradient tends to 1 there.
//
// Note [Margin]
// On a side where another pixel value begins, sigma(h) stops `margin` short of the border (2^-12 of a bin in float,
// 2^-40 in double; |h| > 8.3 or 27.7), with gradient zero beyond, so that rounding never carries y into the next bin:
// quantize(dequantize(x, h)) = x for every x and every finite h.
#pragma once

#include "elementary.h"

ALD_EXT_MATH_BEGIN

template <typename Scalar>
constexpr Scalar dequantization_margin = sizeof(Scalar) == 4 ? Scalar(0x1p-12) : Scalar(0x1p-40);

template <typename Scalar>
struct DequantizedPixel {
    // below is positive, unless h is NaN or x > M.
    Scalar above, below;  // (1 + e) times x + sigma(h) and M - x + sigma(-h); the factor e of a tail is left out
    Scalar exponential;   // e; 1 in a tail, where it cancels
    Scalar tail;          // h in a tail, else 0
    bool held;            // at the margin
};

template <typename Scalar>
ALD_EXT_INLINE DequantizedPixel<Scalar> dequantized_pixel(Scalar x, Scalar h, Scalar largest) {
    const bool positive = h >= Scalar(0);
    const Scalar exact = exp_negative(positive ? h : -h);
    // & and |, not && and ||: no branch, so that the loop vectorizes.
    const bool in_tail = (positive & (x == largest)) | (!positive & (x == Scalar(0)));
    const bool held = !in_tail & (exact < dequantization_margin<Scalar>);
    const Scalar e = held ? dequantization_margin<Scalar> : exact;
    const Scalar upper = positive ? Scalar(1) : e;
    const Scalar lower = positive ? e : Scalar(1);
    const Scalar one = Scalar(1);
    const Scalar above = fused_multiply_add(x, one + e, in_tail ? one : upper);
    const Scalar below = fused_multiply_add(largest - x, one + e, in_tail ? one : lower);
    return {above, below, in_tail ? one : e, in_tail ? h : Scalar(0), held};
}

template <typename Scalar>
ALD_EXT_INLINE Scalar dequantize_pixel(Scalar x, Scalar h, Scalar largest) {
    const DequantizedPixel<Scalar> pixel = dequantized_pixel(x, h, largest);
    const Scalar y = log_of(decompose(pixel.above / pixel.below)) + pixel.tail;
    return pixel.below > Scalar(0) ? y : FloatingPoint<Scalar>::nan;
}

template <typename Scalar>
ALD_EXT_INLINE Scalar dequantize_pixel_gradient(Scalar x, Scalar h, Scalar largest) {
    const DequantizedPixel<Scalar> pixel = dequantized_pixel(x, h, largest);
    const Scalar slope = (largest + Scalar(1)) * pixel.exponential / (pixel.above * pixel.below);
    const Scalar gradient = pixel.held ? Scalar(0) : slope;
    return pixel.below > Scalar(0) ? gradient : FloatingPoint<Scalar>::nan;
}

// min(floor(2^bits sigma(y)), M); NaN gives 0.
template <typename Scalar>
ALD_EXT_INLINE std::uint8_t quantize_pixel(Scalar y, Scalar largest) {
    const bool positive = y >= Scalar(0);
    const Scalar e = exp_negative(positive ? y : -y);
    const Scalar scaled = (largest + Scalar(1)) * ((positive ? Scalar(1) : e) / (Scalar(1) + e));
    const Scalar at_least_zero = scaled > Scalar(0) ? scaled : Scalar(0);
    const Scalar bounded = at_least_zero < largest ? at_least_zero : largest;
    return static_cast<std::uint8_t>(static_cast<std::int32_t>(bounded));
}

ALD_EXT_MATH_END
