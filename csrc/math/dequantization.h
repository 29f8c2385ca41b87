// Langevin dequantization of one pixel (paper: Appendix C, Eq. 25) and its inverse (Eq. 24).
//
// With x in 0 .. M, M = 2^bits - 1, sigma the logistic function and e = exp(-|h|):
//     y = logit((x + sigma(h)) / 2^bits) = log(x + sigma(h)) - log(M - x + sigma(-h))
//     dy/dh = 2^bits sigma(h) sigma(-h) / ((x + sigma(h)) (M - x + sigma(-h)))
// Both terms are multiplied by 1 + e, which cancels in their ratio and leaves no small difference. As
// y(x, h) = -y(M - x, -h), only h >= 0 is looked at.
//
// Note [Tails]
// Where x = M and h >= 0, M - x + sigma(-h) is e / (1 + e): its logarithm is taken as -h itself, so y -> infinity like
// h and never overflows. The gradient tends to 1 there.
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
    // Their ratio is positive, unless h is NaN or x > M.
    Scalar above, below;  // (1 + e) times x + sigma(h) and M - x + sigma(-h); the factor e of a tail is left out
    Scalar exponential;   // e; 1 in a tail, where it cancels
    Scalar tail;          // h in a tail, else 0
    bool held;            // at the margin
};

// For h >= 0.
template <typename Scalar>
ALD_EXT_INLINE DequantizedPixel<Scalar> dequantized_pixel(Scalar x, Scalar h, Scalar largest) {
    constexpr Scalar margin = dequantization_margin<Scalar>, one = Scalar(1);
    const Scalar exact = exp_negative(h);
    const bool in_tail = x == largest;
    // & and |, not && and ||: no branch, so that the loop vectorizes.
    const bool held = !in_tail & (exact < margin);
    const Scalar e = held ? margin : exact;
    const Scalar below = fused_multiply_add(largest - x, one + e, e);
    return {fused_multiply_add(x, one + e, one), in_tail ? one : below, in_tail ? one : e, in_tail ? h : Scalar(0),
            held};
}

template <typename Scalar>
struct SignedPixel {
    DequantizedPixel<Scalar> pixel;  // of |h|
    typename FloatingPoint<Scalar>::Bits sign;
};

template <typename Scalar>
ALD_EXT_INLINE SignedPixel<Scalar> signed_pixel(Scalar x, Scalar h, Scalar largest) {
    using Bits = typename FloatingPoint<Scalar>::Bits;
    constexpr Bits sign_bit = FloatingPoint<Scalar>::sign_bit;
    const Bits bits = bit_cast<Bits>(h);
    const Scalar magnitude = bit_cast<Scalar>(static_cast<Bits>(bits & ~sign_bit));
    return {dequantized_pixel(bits < 0 ? largest - x : x, magnitude, largest), static_cast<Bits>(bits & sign_bit)};
}

template <typename Scalar>
ALD_EXT_INLINE Scalar dequantize_pixel(Scalar x, Scalar h, Scalar largest) {
    using Bits = typename FloatingPoint<Scalar>::Bits;
    const SignedPixel<Scalar> signed_ = signed_pixel(x, h, largest);
    const Scalar ratio = signed_.pixel.above / signed_.pixel.below;
    const Scalar y = log_of(decompose(ratio)) + signed_.pixel.tail;
    const Scalar result = bit_cast<Scalar>(static_cast<Bits>(bit_cast<Bits>(y) ^ signed_.sign));
    return ratio > Scalar(0) ? result : FloatingPoint<Scalar>::nan;
}

template <typename Scalar>
ALD_EXT_INLINE Scalar dequantize_pixel_gradient(Scalar x, Scalar h, Scalar largest) {
    const SignedPixel<Scalar> signed_ = signed_pixel(x, h, largest);
    const DequantizedPixel<Scalar>& pixel = signed_.pixel;
    const Scalar product = pixel.above * pixel.below;
    const Scalar numerator = pixel.held ? Scalar(0) : (largest + Scalar(1)) * pixel.exponential;
    const Scalar denominator = product > Scalar(0) ? product : FloatingPoint<Scalar>::nan;
    return numerator / denominator;
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
