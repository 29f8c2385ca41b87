// Written by fit_polynomials.py. Coefficients of ascending powers.
// clang-format off
#pragma once

// P in log(1 + f) = f + f^2 P(f), sqrt(1/2) <= 1 + f <= sqrt(2), relative; largest error 2^-25.0 before rounding
#define ALD_EXT_LOG_FLOAT \
    -0x1.fffffap-2f, \
    0x1.5556f4p-2f, \
    -0x1.00049ap-2f, \
    0x1.98d2cp-3f, \
    -0x1.535d2ep-3f, \
    0x1.318524p-3f, \
    -0x1.2504a8p-3f, \
    0x1.65c79p-4f

// Q in log(1 + f) = 2 s + s z Q(z), s = f / (2 + f), z = s^2, relative; largest error 2^-59.5 before rounding
#define ALD_EXT_LOG_DOUBLE \
    0x1.5555555555592p-1, \
    0x1.999999997fdb8p-2, \
    0x1.24924941f121fp-2, \
    0x1.c71c52095f03p-3, \
    0x1.74663ee81c0a3p-3, \
    0x1.39a1babe2a084p-3, \
    0x1.2f05634bdc572p-3

// S in sin(pi/2 t) = half_pi t + t^3 S(t^2), |t| <= 1/2, absolute; largest error 2^-27.9 before rounding
#define ALD_EXT_SINE_FLOAT \
    -0x1.4abbe6p-1f, \
    0x1.4668e6p-4f, \
    -0x1.2ef858p-8f

// C in cos(pi/2 t) = 1 + t^2 C(t^2), |t| <= 1/2, absolute; largest error 2^-34.1 before rounding
#define ALD_EXT_COSINE_FLOAT \
    -0x1.3bd3ccp+0f, \
    0x1.03c1dep-2f, \
    -0x1.55c664p-6f, \
    0x1.d9f7bcp-11f

// S in sin(pi/2 t) = half_pi t + t^3 S(t^2), |t| <= 1/2, absolute; largest error 2^-58.8 before rounding
#define ALD_EXT_SINE_DOUBLE \
    -0x1.4abbce625bep-1, \
    0x1.466bc67753ba6p-4, \
    -0x1.32d2ccdde4964p-8, \
    0x1.50782a68d2c9ep-13, \
    -0x1.e2fa0e019b94dp-19, \
    0x1.e01b38776423ep-25, \
    0x1.dc6e1c660e242p-32

// C in cos(pi/2 t) = 1 + t^2 C(t^2), |t| <= 1/2, absolute; largest error 2^-64.7 before rounding
#define ALD_EXT_COSINE_DOUBLE \
    -0x1.3bd3cc9be45dep+0, \
    0x1.03c1f081b5abp-2, \
    -0x1.55d3c7e3c95bcp-6, \
    0x1.e1f50683b42c5p-11, \
    -0x1.a6d1ecb73fce9p-16, \
    0x1.f9cc6acf8adcdp-22, \
    -0x1.b26fe8493873p-28

// E in exp(r) = 1 + r + r^2 E(r), |r| <= log(2) / 2, relative; largest error 2^-28.3 before rounding
#define ALD_EXT_EXP_FLOAT \
    0x1.fffffcp-2f, \
    0x1.555492p-3f, \
    0x1.5558f2p-5f, \
    0x1.1239d4p-7f, \
    0x1.6a244cp-10f

// E in exp(r) = 1 + r + r^2 E(r), |r| <= log(2) / 2, relative; largest error 2^-57.9 before rounding
#define ALD_EXT_EXP_DOUBLE \
    0x1.000000000000ap-1, \
    0x1.55555555554fap-3, \
    0x1.555555555088cp-5, \
    0x1.1111111127b9dp-7, \
    0x1.6c16c18426697p-10, \
    0x1.a01a012a6927bp-13, \
    0x1.a0199a16e809dp-16, \
    0x1.71df253b9907fp-19, \
    0x1.28ad689ec4631p-22, \
    0x1.ad7f7873fcf2dp-26

// clang-format on
