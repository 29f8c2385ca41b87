// The formulas of csrc/math against published answers, libm in long double, and std::fma.
#include <algorithm>
#include <array>
#include <vector>

#include "../math/dequantization.h"
#include "../math/langevin_update.h"
#include "../math/marginal_gaussian.h"
#include "../math/normal.h"
#include "../math/rounding.h"
#include "../math/shard.h"
#include "check.h"

namespace {

using namespace ald_ext;
using namespace ald_ext::tests;

using Real = long double;
const Real two_pi = 6.283185307179586476925286766559005768L;

using Words = std::array<std::uint32_t, 4>;

template <int rounds>
Words philox_words(const Words& counter, std::uint32_t key_low, std::uint32_t key_high) {
    const auto block = philox<rounds>(counter[0], counter[1], counter[2], counter[3], key_low, key_high);
    return {block.word[0], block.word[1], block.word[2], block.word[3]};
}

template <int rounds>
void test_philox_known_answers(const std::array<Words, 3>& expected) {
    // Random123, tests/kat_vectors: philox4x32.
    constexpr std::uint32_t ones = 0xffffffffu;
    const Words counters[] = {
        {0, 0, 0, 0}, {ones, ones, ones, ones}, {0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}};
    const std::uint32_t keys[][2] = {{0, 0}, {ones, ones}, {0xa4093822u, 0x299f31d0u}};
    for (int i = 0; i < 3; ++i) {
        const Words got = philox_words<rounds>(counters[i], keys[i][0], keys[i][1]);
        check(got == expected[i], "Philox known answer ", i, " of ", rounds, " rounds: got ", got[0], " ", got[1], " ",
              got[2], " ", got[3]);
    }
}

// csrc/math/normal.h, Note [Noise layout]: which bit of the key goes where.
void test_noise_layout() {
    const std::uint64_t seed = 0x0123456789abcdefu, step = 0xa1b2c3d4e5u, parameter = 0xf0e9d8c7b6au,
                        block = 0x9988776650u;
    const NoiseStream stream = make_noise_stream(seed, step, parameter);
    for (std::uint32_t lane = 0; lane < chunk_blocks; ++lane) {
        const std::uint32_t top = 0xf0e0000u | 0xa100u | 0x99u;
        const Words expected =
            philox_words<philox_rounds>({0x88776650u + lane, 0xb2c3d4e5u, 0x9d8c7b6au, top}, 0x89abcdefu, 0x01234567u);
        const auto got = random_words(stream, block, lane);
        check(std::equal(got.word, got.word + 4, expected.begin()), "noise layout, lane ", lane);
    }
}

// csrc/math/shard.h, Note [Shards]: some columns of some rows of a matrix, counted one after another.
void test_elements_of_shards() {
    constexpr std::int64_t columns = 11, first_row = 2, rows = 5;
    for (std::int64_t begin = 0; begin < columns; ++begin) {
        for (std::int64_t end = begin + 1; end <= columns; ++end) {
            const Shard shard = {first_row * columns + begin, end - begin, columns};
            std::int64_t i = 0;
            for (std::int64_t row = first_row; row < first_row + rows; ++row) {
                for (std::int64_t column = begin; column < end; ++column, ++i) {
                    const std::int64_t got = element_of_parameter(shard, i), expected = row * columns + column;
                    check(got == expected, "columns ", begin, " to ", end, ": element ", i, ": got ", got,
                          ", expected ", expected);
                }
            }
        }
    }
    check(element_of_parameter({5}, 7) == 12, "element 7 of a range from 5 on");
    const std::int64_t far = element_of_parameter({1, 1, std::int64_t{1} << 40}, 1);
    check(far == (std::int64_t{1} << 40) + 1, "element 1 of rows 2^40 apart: got ", far);
}

// One element alone has its normal of the block.
template <typename Scalar>
void test_normal_of_element() {
    const NoiseStream stream = make_noise_stream(7, (std::uint64_t{1} << 35) + 1, (std::uint64_t{1} << 40) + 3);
    for (const std::uint64_t chunk : {std::uint64_t{0}, std::uint64_t{5}, (std::uint64_t{1} << 29) + 9}) {
        for (std::uint64_t i = 0; i < chunk_size<Scalar>; ++i) {
            const auto block = normals_of_block<Scalar>(stream, chunk * chunk_blocks, i % chunk_blocks);
            const Scalar got = normal_of_element<Scalar>(stream, chunk * chunk_size<Scalar> + i);
            check(identical(got, block.lane[i / chunk_blocks]), "normal_of_element<", type_name<Scalar>(), ">(", i,
                  ") of chunk ", chunk, ": got ", got, ", expected ", block.lane[i / chunk_blocks]);
        }
    }
}

// csrc/math/langevin_update.h, Note [Underdamped steps], in long double; the errors are those of six roundings.
template <typename Scalar>
void test_underdamped_update() {
    const Real unit = std::numeric_limits<Scalar>::epsilon() / 2;
    auto random = random_source(81);
    std::normal_distribution<double> normal;
    const LangevinSettings cases[] = {
        {.lr = 0.3, .weight_decay = 0.1, .temperature = 1.5, .num_data = 7, .momentum = 0.9},
        {.lr = 0.02, .temperature = 0, .maximize = true, .momentum = 0.25},
    };
    for (const LangevinSettings& settings : cases) {
        const StepScalars<Scalar> step = make_step_scalars<Scalar>(settings);
        for (int i = 0; i < 1000; ++i) {
            const Scalar theta = static_cast<Scalar>(normal(random)), gradient = static_cast<Scalar>(normal(random));
            const Scalar before = static_cast<Scalar>(normal(random)), xi = static_cast<Scalar>(normal(random));
            const Real h = std::sqrt(static_cast<Real>(settings.lr)), mu = settings.momentum;
            const Real g = (settings.maximize ? -1 : 1) * static_cast<Real>(gradient) + settings.weight_decay * theta;
            const Real kicked = before - h * g;
            const Real noise = std::sqrt((1 - mu * mu) * settings.temperature / settings.num_data) * xi;
            const Real p = mu * kicked + noise, moved = theta + h / 2 * (kicked + p);
            const Real size = std::fabs(before) + h * (std::fabs(gradient) + std::fabs(theta)) + std::fabs(noise);
            States<Scalar> state = {before};
            const Scalar& momentum = state.of[0];
            const Scalar kick = Update<Sghmc>::prepare(theta, gradient, state, step);
            const Scalar got = Update<Sghmc>::finish(theta, gradient, xi, kick, state, step);
            check(std::fabs(momentum - p) <= 6 * unit * size, "underdamped momentum<", type_name<Scalar>(), ">: got ",
                  momentum, ", expected ", p);
            check(std::fabs(got - moved) <= 6 * unit * (std::fabs(theta) + h * size), "underdamped theta<",
                  type_name<Scalar>(), ">: got ", got, ", expected ", moved);
        }
    }
}

// --- log, exp, sine and cosine: largest relative error, in units of the rounding error 2^-24 or 2^-53 ---

template <typename Scalar>
constexpr Real rounding_unit = std::numeric_limits<Scalar>::epsilon() / 2;

template <typename Scalar>
struct LargestError {
    Real error = 0, at = 0;
    void see(Scalar got, Real expected, Real argument) {
        const Real relative =
            std::fabs(static_cast<Real>(got) - expected) / (std::fabs(expected) * rounding_unit<Scalar>);
        if (!(relative <= error)) error = relative, at = argument;
    }
    // The bounds lie just above the largest errors over all floats of the range, or over 3e7 random doubles.
    void check_below(Real bound, const char* function) const {
        std::cout << function << "(" << type_name<Scalar>() << "): largest error " << std::setprecision(4) << error
                  << " rounding units\n";
        check(error <= bound, function, " (", type_name<Scalar>(), ") is off by ", error, " rounding units at ", at,
              ", expected at most ", bound);
    }
};

template <typename Scalar>
void test_log(Real bound) {
    LargestError<Scalar> largest;
    const auto see = [&](Scalar x) {
        if (x != Scalar(1)) largest.see(log_positive(x), std::log(static_cast<Real>(x)), x);
    };
    auto random = random_source(1);
    std::uniform_real_distribution<double> exponent(-125.0, 127.0), mantissa(0.70, 1.42);
    for (int i = 0; i < 400000; ++i) {
        see(static_cast<Scalar>(std::exp2(exponent(random))));
        see(static_cast<Scalar>(mantissa(random)));
        see(static_cast<Scalar>(1.0 + std::ldexp(mantissa(random), -(i % 50))));
        see(static_cast<Scalar>(1.0 - std::ldexp(mantissa(random), -2 - (i % 50))));
    }
    see(std::numeric_limits<Scalar>::min());
    see(std::numeric_limits<Scalar>::max());
    largest.check_below(bound, "log_positive");
    check(log_positive(Scalar(1)) == Scalar(0), "log_positive(1) is not 0");
    const Scalar infinity = std::numeric_limits<Scalar>::infinity(), nan = std::numeric_limits<Scalar>::quiet_NaN();
    check(identical(log_positive(infinity), infinity), "log_positive(infinity) is not infinity");
    check(std::isnan(log_positive(nan)), "log_positive(NaN) is not NaN");
    // Of a negative number, whose logarithm callers discard, it is asked that no integer overflows: UBSan sees it.
    const Scalar negative = -std::numeric_limits<Scalar>::min();
    check(std::isfinite(log_of(decompose(negative))), "log_of(decompose(x)) of a negative x is not finite");
}

template <typename Scalar>
void test_exp(Real bound) {
    const Scalar limit = sizeof(Scalar) == 4 ? Scalar(87) : Scalar(708);
    LargestError<Scalar> largest;
    auto random = random_source(2);
    std::uniform_real_distribution<double> uniform(0.0, 1.0);
    for (int i = 0; i < 1000000; ++i) {
        const double u = uniform(random);
        const Scalar x = static_cast<Scalar>(i % 2 == 0 ? u * limit : std::ldexp(u, -(i % 60)));
        largest.see(exp_negative(x), std::exp(-static_cast<Real>(x)), x);
    }
    largest.see(exp_negative(limit), std::exp(-static_cast<Real>(limit)), limit);
    largest.check_below(bound, "exp_negative");
    check(exp_negative(Scalar(0)) == Scalar(1), "exp_negative(0) is not 1");
    const Scalar infinity = std::numeric_limits<Scalar>::infinity();
    check(exp_negative(infinity) == exp_negative(limit), "exp_negative(infinity) is not the smallest value");
    check(std::isnan(exp_negative(std::numeric_limits<Scalar>::quiet_NaN())), "exp_negative(NaN) is not NaN");
}

template <typename Scalar>
void test_sine_cosine(Real sine_bound, Real cosine_bound) {
    LargestError<Scalar> sine, cosine;
    auto random = random_source(3);
    std::uniform_real_distribution<double> uniform(-0.5, 0.5);
    for (int i = 0; i < 1000000; ++i) {
        const Scalar t = static_cast<Scalar>(i % 2 == 0 ? uniform(random) : std::ldexp(uniform(random), -(i % 60)));
        const SineCosine<Scalar> got = sine_cosine_quarter_turns(t);
        const Real angle = static_cast<Real>(t) * two_pi / 4, half_sine = std::sin(angle / 2);
        if (t * t < std::numeric_limits<Scalar>::min()) continue;
        sine.see(got.sine, std::sin(angle), t);
        cosine.see(got.cosine_less_one, -2 * half_sine * half_sine, t);
    }
    for (const Scalar t : {Scalar(-0.5), Scalar(0.5)}) {
        sine.see(sine_cosine_quarter_turns(t).sine, std::sin(t * two_pi / 4), t);
        cosine.see(sine_cosine_quarter_turns(t).cosine_less_one, std::cos(t * two_pi / 4) - 1, t);
    }
    sine.check_below(sine_bound, "sine");
    cosine.check_below(cosine_bound, "cosine less one");
    const SineCosine<Scalar> zero = sine_cosine_quarter_turns(Scalar(0));
    check(zero.sine == Scalar(0) && zero.cosine_less_one == Scalar(0), "sine and cosine less one of 0 are not 0");
}

// --- Box-Muller ---

// Words at which something changes: ends, quadrant and octant borders, powers of two; and their neighbours.
template <typename Word>
std::vector<Word> edge_words() {
    constexpr int bits = 8 * sizeof(Word);
    std::vector<Word> words;
    const auto add_with_neighbours = [&](Word word) {
        for (int j = -2; j <= 2; ++j) words.push_back(static_cast<Word>(word + static_cast<Word>(j)));
    };
    for (int eighth = 0; eighth < 8; ++eighth) add_with_neighbours(static_cast<Word>(eighth) << (bits - 3));
    for (int k = 2; k < bits; ++k) add_with_neighbours(Word{1} << k);
    for (int k = 2; k < bits; ++k) add_with_neighbours(static_cast<Word>(0) - (Word{1} << k));
    return words;
}

template <typename Scalar, typename Word, typename SignedWord>
struct BoxMullerCheck {
    Real largest_error = 0;
    Scalar largest_value = 0;

    void see(Word radius_word, Word angle_word, Real bound) {
        const Real half_range = std::ldexp(Real(1), 8 * sizeof(Word) - 1);
        const auto got = box_muller<Scalar, Word, SignedWord>(radius_word, angle_word, static_cast<Scalar>(half_range));
        // The sum is exact in Real, or rounded to Scalar once.
        const Scalar count = static_cast<Scalar>(static_cast<SignedWord>(radius_word >> 1));
        const Real u = static_cast<Scalar>(static_cast<Real>(count) + Real(0.5)) / half_range;
        const Real radius = std::sqrt(-2 * std::log(u));
        const Real angle = two_pi * (static_cast<Real>(angle_word) / (2 * half_range));
        const Real error =
            std::max(std::fabs(got.first - radius * std::cos(angle)), std::fabs(got.second - radius * std::sin(angle)));
        if (!(error <= largest_error)) largest_error = error;
        largest_value = std::max(largest_value, std::max(std::fabs(got.first), std::fabs(got.second)));
        check(error <= bound, "box_muller<", type_name<Scalar>(), ">(", radius_word, ", ", angle_word, ") is off by ",
              error, ", expected at most ", bound);
    }
};

// The bounds are the ones that csrc/math/normal.h and ops.normal promise.
template <typename Scalar, typename Word, typename SignedWord>
void test_box_muller(Real bound, Scalar limit) {
    BoxMullerCheck<Scalar, Word, SignedWord> all;
    const std::vector<Word> edges = edge_words<Word>();
    for (const Word radius_word : edges) {
        for (const Word angle_word : edges) all.see(radius_word, angle_word, bound);
    }
    auto random = random_source(4);
    for (int i = 0; i < 500000; ++i) all.see(static_cast<Word>(random()), static_cast<Word>(random()), bound);
    for (int i = 0; i < 100000; ++i) {
        // Radii near zero and near the largest, where the logarithm is hardest.
        const Word small = static_cast<Word>(random()) >> (i % (8 * sizeof(Word)));
        all.see(small, static_cast<Word>(random()), bound);
        all.see(static_cast<Word>(~small), static_cast<Word>(random()), bound);
    }
    // The largest float error that a search over 6e9 pairs of words found: a large radius in an unlucky direction.
    all.see(static_cast<Word>(30), static_cast<Word>(1635885967), bound);
    std::cout << "box_muller<" << type_name<Scalar>() << ">: largest error " << all.largest_error << "\n";
    check(all.largest_value <= limit, "box_muller<", type_name<Scalar>(), "> gave ", all.largest_value,
          ", expected at most ", limit);
}

// --- The multiply-add of this build ---

template <typename Scalar>
void check_multiply_add(Scalar a, Scalar b, Scalar c) {
    const Scalar got = fused_multiply_add(a, b, c), expected = std::fma(a, b, c);
    check(identical(got, expected), "fused_multiply_add<", type_name<Scalar>(), ">(", a, ", ", b, ", ", c, "): got ",
          got, ", expected ", expected);
}

template <typename Scalar>
void test_multiply_add_finite() {
    using Limits = std::numeric_limits<Scalar>;
    std::vector<Scalar> nasty = {Scalar(0),
                                 Limits::denorm_min(),
                                 3 * Limits::denorm_min(),
                                 Limits::min(),
                                 Limits::min() / 2,
                                 Scalar(1) - Limits::epsilon() / 2,
                                 Scalar(1),
                                 Scalar(1) + Limits::epsilon(),
                                 Scalar(1) / 3,
                                 Scalar(0x1.000002p+12),
                                 std::sqrt(Limits::min()),
                                 std::sqrt(Limits::max()),
                                 Limits::max() / 2,
                                 Limits::max()};
    const std::size_t positive = nasty.size();
    for (std::size_t i = 0; i < positive; ++i) nasty.push_back(-nasty[i]);
    for (const Scalar a : nasty) {
        for (const Scalar b : nasty) {
            for (const Scalar c : nasty) check_multiply_add(a, b, c);
        }
    }
    auto random = random_source(5);
    std::normal_distribution<double> normal;
    std::uniform_int_distribution<int> exponent(-30, 30);
    for (int i = 0; i < 500000; ++i) {
        const Scalar a = static_cast<Scalar>(normal(random)), b = static_cast<Scalar>(normal(random));
        check_multiply_add(a, b, static_cast<Scalar>(std::ldexp(normal(random), exponent(random))));
        // Cancellation: c is -a b but for its last bits, and exact halves of a last place.
        const Scalar product = a * b;
        check_multiply_add(a, b, -product);
        check_multiply_add(a, b, -std::nextafter(product, Scalar(0)));
        check_multiply_add(a, b, product * Limits::epsilon() / 2);
    }
    for (int i = 0; i < 500000; ++i) {
        // Any bits: subnormals, overflow and underflow come often.
        const Scalar a = from_bits<Scalar>(random()), b = from_bits<Scalar>(random()), c = from_bits<Scalar>(random());
        if (std::isfinite(a) && std::isfinite(b) && std::isfinite(c)) check_multiply_add(a, b, c);
    }
    for (int i = 0; i < 200000; ++i) {
        // Results among the subnormals, where a second rounding would show.
        const Scalar a = static_cast<Scalar>(std::ldexp(normal(random), Limits::min_exponent / 2));
        const Scalar b = static_cast<Scalar>(std::ldexp(normal(random), Limits::min_exponent / 2 - i % 20));
        check_multiply_add(a, b, static_cast<Scalar>(std::ldexp(normal(random), Limits::min_exponent - i % 22)));
    }
}

template <typename Scalar>
void test_multiply_add_special() {
    const Scalar infinity = std::numeric_limits<Scalar>::infinity(), nan = std::numeric_limits<Scalar>::quiet_NaN();
    const Scalar values[] = {0, Scalar(-0.0), 1, -2, std::numeric_limits<Scalar>::max(), infinity, -infinity, nan};
    for (const Scalar a : values) {
        for (const Scalar b : values) {
            for (const Scalar c : values) check_multiply_add(a, b, c);
        }
    }
}

// --- 16-bit floating point numbers, by their definition ---

template <typename Param>
struct Format;

template <>
struct Format<BFloat16> {
    static constexpr const char* name = "bfloat16";
    static constexpr int mantissa_bits = 7, smallest_exponent = -126, random_bits = 16;
    static constexpr std::uint16_t largest = 0x7F7F, infinity = 0x7F80;
};

template <>
struct Format<Half> {
    static constexpr const char* name = "float16";
    static constexpr int mantissa_bits = 10, smallest_exponent = -14, random_bits = 13;
    static constexpr std::uint16_t largest = 0x7BFF, infinity = 0x7C00;
};

// The value of finite bits without a sign; beyond them, what would come next.
template <typename Param>
Real value_of(std::uint32_t bits) {
    constexpr int mantissa_bits = Format<Param>::mantissa_bits;
    const int exponent = static_cast<int>(bits >> mantissa_bits);
    const Real mantissa = bits & ((1u << mantissa_bits) - 1), implied = exponent > 0 ? 1 << mantissa_bits : 0;
    return std::ldexp(implied + mantissa, std::max(exponent, 1) - 1 + Format<Param>::smallest_exponent - mantissa_bits);
}

template <typename Param>
void test_widen() {
    using Layout = Format<Param>;
    for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
        const std::uint32_t magnitude = bits & 0x7FFFu;
        const float got = widen(Param{static_cast<std::uint16_t>(bits)});
        const bool right = magnitude > Layout::infinity    ? std::isnan(got)
                           : magnitude == Layout::infinity ? std::isinf(got)
                                                           : std::fabs(got) == value_of<Param>(magnitude);
        check(right && std::signbit(got) == (bits > 0x7FFFu), "widen(", Layout::name, " of bits ", bits, "): got ",
              got);
    }
}

// --- Stochastic rounding: which results there are, and how many of the random words give the upper one ---

// The random word number `count` of 2^random_bits; what the other bits are makes no difference.
template <typename Param>
std::uint32_t random_word(std::uint32_t count) {
    constexpr int unused = 32 - Format<Param>::random_bits;
    return count << unused | (count * 0x9E3779B9u >> (32 - unused));
}

template <typename Param>
std::uint16_t round_magnitude(float value, std::uint32_t count) {
    const std::uint32_t word = random_word<Param>(count);
    const std::uint16_t up = round_stochastically<Param>(value, word).bits;
    const std::uint16_t down = round_stochastically<Param>(-value, word).bits;
    check((up ^ down) == 0x8000u && up < 0x8000u, "round_stochastically<", Format<Param>::name, ">(", value,
          ") is not symmetric in the sign: bits ", up, " and ", down);
    return up;
}

// The bits of the largest number that is not above a finite value >= 0, by bisection.
template <typename Param>
std::uint16_t neighbour_below(float value) {
    std::uint16_t low = 0, high = Format<Param>::largest;
    while (low < high) {
        const std::uint16_t middle = static_cast<std::uint16_t>((low + high + 1) / 2);
        if (value_of<Param>(middle) <= value) {
            low = middle;
        } else {
            high = static_cast<std::uint16_t>(middle - 1);
        }
    }
    return low;
}

// How many of all random words round a finite value >= 0, below the largest number, up; the others must leave it below.
template <typename Param>
std::int64_t count_upwards(float value) {
    const std::uint16_t below = neighbour_below<Param>(value);
    std::int64_t upwards = 0;
    bool neighbours = true;
    for (std::uint32_t count = 0; count < 1u << Format<Param>::random_bits; ++count) {
        const std::uint16_t bits = round_magnitude<Param>(value, count);
        neighbours = neighbours && (bits == below || bits == below + 1);
        upwards += bits != below;
    }
    check(neighbours, "round_stochastically<", Format<Param>::name, ">(", value, ") gives no neighbour");
    return upwards;
}

// The number of random words for which rounding up has the right mean.
template <typename Param>
Real expected_upwards(float value) {
    const std::uint16_t below = neighbour_below<Param>(value);
    const Real low = value_of<Param>(below), high = value_of<Param>(below + 1u);
    return (value - low) / (high - low) * (1 << Format<Param>::random_bits);
}

template <typename Param>
bool is_subnormal(float value) {
    return value < std::ldexp(1.0f, Format<Param>::smallest_exponent);
}

// csrc/math/rounding.h, Note [Stochastic rounding]: exact, but for subnormal halves, where a float has bits below the
// 13 that are compared.
template <typename Param>
void check_upwards(float value) {
    const Real got = static_cast<Real>(count_upwards<Param>(value)), expected = expected_upwards<Param>(value);
    const bool exact = std::is_same_v<Param, BFloat16> || !is_subnormal<Param>(value);
    check(exact ? got == expected : std::fabs(got - expected) <= 1, "round_stochastically<", Format<Param>::name, ">(",
          value, "): ", got, " random words round up, expected ", expected);
}

template <typename Param>
void test_rounding_probabilities() {
    using Layout = Format<Param>;
    auto random = random_source(8);
    std::uniform_real_distribution<double> mantissa(1.0, 2.0);
    for (int i = 0; i < 300; ++i) {
        // Every binade that floats have, down to where bfloat16 ends.
        const int top = std::ilogb(value_of<Param>(Layout::largest)), bottom = std::max(-149, top - 2 * (top + 15));
        const int exponent = bottom + i % (top - bottom);
        check_upwards<Param>(static_cast<float>(std::ldexp(mantissa(random), exponent)));
    }
    for (int i = 0; i < 30; ++i) {  // subnormal numbers, and the border to the normal ones
        const double subnormal =
            std::ldexp(mantissa(random), Layout::smallest_exponent - 1 - i % Layout::mantissa_bits);
        check_upwards<Param>(static_cast<float>(subnormal));
        check_upwards<Param>(static_cast<float>(std::ldexp(mantissa(random), Layout::smallest_exponent - 20)));
    }
    for (const float border : {std::ldexp(1.0f, Layout::smallest_exponent), 1.0f, 2.0f}) {
        check_upwards<Param>(std::nextafter(border, 0.0f));
        check_upwards<Param>(std::nextafter(border, 4.0f));
    }
}

template <typename Param>
void test_representable_values_stay() {
    for (std::uint32_t bits = 0; bits < Format<Param>::infinity; ++bits) {
        const float value = widen(Param{static_cast<std::uint16_t>(bits)});
        for (const std::uint32_t count : {0u, 1u, 4097u, (1u << Format<Param>::random_bits) - 1}) {
            check(round_magnitude<Param>(value, count) == bits, "round_stochastically<", Format<Param>::name, ">(",
                  value, ") moves a number of the format");
        }
    }
}

// Beyond the largest number: itself, but infinity from half a unit in the last place on.
template <typename Param>
void test_rounding_overflow() {
    using Layout = Format<Param>;
    const Real largest = value_of<Param>(Layout::largest), next = value_of<Param>(Layout::infinity);
    const float halfway = static_cast<float>((largest + next) / 2);
    const auto check_all = [&](float value, std::uint16_t expected) {
        for (std::uint32_t count = 0; count < 1u << Layout::random_bits; ++count) {
            const std::uint16_t got = round_magnitude<Param>(value, count);
            check(got == expected, "round_stochastically<", Layout::name, ">(", value, "): got bits ", got,
                  ", expected ", expected);
        }
    };
    check_all(static_cast<float>(largest), Layout::largest);
    check_all(std::nextafter(static_cast<float>(largest), halfway), Layout::largest);
    check_all(std::nextafter(halfway, 0.0f), Layout::largest);
    check_all(halfway, Layout::infinity);
    check_all(std::numeric_limits<float>::max(), Layout::infinity);
    check_all(std::numeric_limits<float>::infinity(), Layout::infinity);
    for (const std::uint32_t bits : {0x7F800001u, 0x7FC00000u, 0x7FFFFFFFu, 0xFF800001u, 0xFFFFFFFFu}) {
        for (const std::uint32_t word : {0u, 0xFFFFFFFFu}) {
            const float nan = from_bits<float>(bits);
            const float got = widen(round_stochastically<Param>(nan, word));
            check(std::isnan(got) && std::signbit(got) == std::signbit(nan), "round_stochastically<", Layout::name,
                  "> of NaN ", bits, ": got ", got);
        }
    }
}

template <typename Param>
void test_rounding() {
    test_widen<Param>();
    test_rounding_probabilities<Param>();
    test_representable_values_stay<Param>();
    test_rounding_overflow<Param>();
}

// --- Dequantization ---

template <typename Scalar>
std::vector<Scalar> dequantization_arguments() {
    std::vector<Scalar> values = {0};
    const auto add = [&](Scalar h) {
        for (const Scalar value : {h, std::nextafter(h, Scalar(0)), std::nextafter(h, 2 * h)}) {
            values.push_back(value);
            values.push_back(-value);
        }
    };
    // Around both margins and both limits of exp_negative, and far beyond.
    for (const double h :
         {1e-30, 1e-6, 0.1, 1.0, 3.0, 12 * 0.6931471805599453, 40 * 0.6931471805599453, 87.0, 708.0, 1e4})
        add(static_cast<Scalar>(h));
    add(std::numeric_limits<Scalar>::min());
    values.push_back(std::numeric_limits<Scalar>::max());
    values.push_back(std::numeric_limits<Scalar>::lowest());
    values.push_back(static_cast<Scalar>(3e38));
    values.push_back(static_cast<Scalar>(-3e38));
    auto random = random_source(6);
    std::normal_distribution<double> normal;
    for (int i = 0; i < 600; ++i) values.push_back(static_cast<Scalar>(normal(random) * (1 << i % 7)));
    return values;
}

template <typename Scalar>
void test_dequantize_round_trip() {
    const std::vector<Scalar> arguments = dequantization_arguments<Scalar>();
    for (int bits = 1; bits <= 8; ++bits) {
        const int largest = (1 << bits) - 1;
        for (int x = 0; x <= largest; ++x) {
            for (const Scalar h : arguments) {
                const Scalar y = dequantize_pixel(static_cast<Scalar>(x), h, static_cast<Scalar>(largest));
                const int back = quantize_pixel(y, static_cast<Scalar>(largest));
                check(std::isfinite(y) && back == x, "dequantize<", type_name<Scalar>(), ">(", x, ", ", h, ", bits ",
                      bits, ") = ", y, " quantizes to ", back);
            }
        }
    }
}

// y and dy/dh against the formulas in long double, wherever no margin holds them.
template <typename Scalar>
void test_dequantize_formula() {
    // y is a logarithm of a quotient plus h in a tail: 4 roundings of values of at most max(|y|, 1). The gradient is a
    // product of five factors, each good to 3 rounding units (exp: 2).
    const Real bound = 8 * rounding_unit<Scalar>, gradient_bound = 16 * rounding_unit<Scalar>;
    Real largest_error = 0, largest_gradient_error = 0;
    auto random = random_source(7);
    std::normal_distribution<double> normal;
    for (int i = 0; i < 200000; ++i) {
        const int bits = 1 + i % 8, largest = (1 << bits) - 1;
        const int x = static_cast<int>(random() % (largest + 1));
        const Scalar h = static_cast<Scalar>(2 * normal(random));
        if (std::fabs(h) > 8) continue;
        const Real up = 1 / (1 + std::exp(-static_cast<Real>(h))), down = 1 / (1 + std::exp(static_cast<Real>(h)));
        const Real above = x + up, below = largest - x + down;
        const Real y = std::log(above) - std::log(below), slope = (largest + 1) * up * down / (above * below);
        const Scalar got = dequantize_pixel(static_cast<Scalar>(x), h, static_cast<Scalar>(largest));
        largest_error =
            std::max(largest_error, std::fabs(got - y) / std::max(Real(1), std::fabs(y)) / rounding_unit<Scalar>);
        check(std::fabs(got - y) <= bound * std::max(Real(1), std::fabs(y)), "dequantize<", type_name<Scalar>(), ">(",
              x, ", ", h, ", bits ", bits, "): got ", got, ", expected ", y);
        const Scalar gradient = dequantize_pixel_gradient(static_cast<Scalar>(x), h, static_cast<Scalar>(largest));
        largest_gradient_error =
            std::max(largest_gradient_error, std::fabs(gradient - slope) / slope / rounding_unit<Scalar>);
        check(std::fabs(gradient - slope) <= gradient_bound * slope, "dequantize gradient<", type_name<Scalar>(), ">(",
              x, ", ", h, ", bits ", bits, "): got ", gradient, ", expected ", slope);
    }
    std::cout << "dequantize<" << type_name<Scalar>() << ">: largest error " << largest_error << " and "
              << largest_gradient_error << " (gradient) rounding units\n";
}

template <typename Scalar>
void test_dequantize_special() {
    const Scalar nan = std::numeric_limits<Scalar>::quiet_NaN(), infinity = std::numeric_limits<Scalar>::infinity();
    check(std::isnan(dequantize_pixel(Scalar(3), nan, Scalar(255))), "dequantize(3, NaN) is not NaN");
    check(std::isnan(dequantize_pixel_gradient(Scalar(3), nan, Scalar(255))), "dequantize gradient(3, NaN) is not NaN");
    check(quantize_pixel(nan, Scalar(255)) == 0, "quantize(NaN) is not 0");
    check(quantize_pixel(infinity, Scalar(255)) == 255, "quantize(infinity) is not 255");
    check(quantize_pixel(-infinity, Scalar(255)) == 0, "quantize(-infinity) is not 0");
    // No pixel of `bits` bits: what CUDA, which does not look at the values before, is documented to give.
    for (const Scalar h : {Scalar(-2), Scalar(0), Scalar(0.5), Scalar(30)}) {
        const Scalar y = dequantize_pixel(Scalar(5), h, Scalar(3));
        check(std::isnan(y), "dequantize(5, ", h, ", bits 2): got ", y, ", expected NaN");
    }
    // The tails: slope one, and the other way a margin with slope zero.
    for (const Scalar h : {Scalar(1e4), Scalar(3e38)}) {
        check(dequantize_pixel_gradient(Scalar(255), h, Scalar(255)) == Scalar(1), "no slope 1 in the upper tail at ",
              h);
        check(dequantize_pixel_gradient(Scalar(0), -h, Scalar(255)) == Scalar(1), "no slope 1 in the lower tail at ",
              h);
        check(dequantize_pixel_gradient(Scalar(0), h, Scalar(255)) == Scalar(0), "no slope 0 at the margin at ", h);
    }
}

// --- The marginalized Gaussian ---

void test_marginal_gaussian() {
    const PrecisionPrior priors[] = {{1, 0}, {0, 0}, {2.5, 0.75}, {1e-3, 1e-3}};
    for (const PrecisionPrior& prior : priors) {
        for (const int dimension : {1, 2, 7, 784, 100000}) {
            const MarginalGaussian density = make_marginal_gaussian(prior, dimension);
            for (const double squared : {1e-12, 1e-3, 1.0, 37.5, 1e9}) {
                const Real a = prior.shape, b = prior.rate, d = dimension;
                Real expected =
                    std::lgamma(a + d / 2) - d / 2 * std::log(two_pi) - (a + d / 2) * std::log(b + squared / Real(2));
                if (b > 0) expected += a * std::log(b) - std::lgamma(a);
                const double got = marginal_gaussian_log_prob(density, squared);
                // The largest of the terms sets the scale of the rounding errors; six of them.
                const Real scale =
                    std::lgamma(a + d / 2 + 1) + (a + d / 2) * (2 + std::fabs(std::log(b + squared / Real(2))));
                check(std::fabs(got - expected) <= 6 * rounding_unit<double> * scale + rounding_unit<double> * 20,
                      "marginal_gaussian_log_prob(shape ", prior.shape, ", rate ", prior.rate, ", d ", dimension,
                      ", r^2 ", squared, "): got ", got, ", expected ", expected);
                const Real factor = -(a + d / 2) / (b + squared / Real(2));
                const double got_factor = marginal_gaussian_score_factor(density, squared);
                check(std::fabs(got_factor - factor) <= 4 * rounding_unit<double> * std::fabs(factor),
                      "marginal_gaussian_score_factor: got ", got_factor, ", expected ", factor);
            }
            const double held = marginal_gaussian_log_prob(density, 0.0);
            check(std::isfinite(held) && held == marginal_gaussian_log_prob(density, smallest_squared_distance),
                  "r^2 = 0 is not held at the smallest distance");
            check(marginal_gaussian_score_factor(density, 0.0) == 0.0, "the score at r^2 = 0 is not 0");
        }
    }
}

}  // namespace

int main() {
    test_philox_known_answers<7>({{{0x5f6fb709u, 0x0d893f64u, 0x4f121f81u, 0x4f730a48u},
                                   {0x5207ddc2u, 0x45165e59u, 0x4d8ee751u, 0x8c52f662u},
                                   {0x4dfccabau, 0x190a87f0u, 0xc47362bau, 0xb6b5242au}}});
    test_philox_known_answers<10>({{{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u},
                                    {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu},
                                    {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}}});
    test_noise_layout();
    test_elements_of_shards();
    test_normal_of_element<float>();
    test_normal_of_element<double>();
    test_underdamped_update<float>();
    test_underdamped_update<double>();
    test_log<float>(1.8L);
    test_log<double>(1.6L);
    test_exp<float>(1.5L);
    test_exp<double>(1.6L);
    test_sine_cosine<float>(1.6L, 3.1L);
    test_sine_cosine<double>(1.5L, 3.2L);
    test_box_muller<float, std::uint32_t, std::int32_t>(1e-6L, 6.7f);
    test_box_muller<double, std::uint64_t, std::int64_t>(1e-14L, 9.5);
    test_multiply_add_finite<float>();
    test_multiply_add_finite<double>();
    test_multiply_add_special<float>();
    test_multiply_add_special<double>();
    test_rounding<BFloat16>();
    test_rounding<Half>();
    test_dequantize_round_trip<float>();
    test_dequantize_round_trip<double>();
    test_dequantize_formula<float>();
    test_dequantize_formula<double>();
    test_dequantize_special<float>();
    test_dequantize_special<double>();
    test_marginal_gaussian();
    return summary("test_math");
}
