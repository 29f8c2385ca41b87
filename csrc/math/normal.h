// Standard normals as a pure function of (seed, step, parameter, element).
//
// Note [Noise layout]
// Philox is keyed by the seed. Its 128-bit counter is
//     word 0      low 32 bits of the block
//     word 1      low 32 bits of the step
//     word 2      low 32 bits of the parameter
//     word 3      purpose (4 bits) | parameter, high 12 bits | step, high 8 bits | block, high 8 bits
// so that steps < 2^40, parameters < 2^44 and blocks < 2^40 never collide. A block of four words gives four float or
// two double normals. Elements are laid out in chunks of 16 blocks: element i takes
//     block  16 (i div chunk) + (i mod 16),      lane  (i mod chunk) div 16,      chunk = 16 x normals per block,
// so lane j of 16 consecutive blocks fills 16 consecutive elements: a vector register, or four threads' 16-byte
// accesses, without a shuffle.
//
// Note [Box-Muller]
// Words (x, y) give the pair r cos(phi), r sin(phi), with r = sqrt(-2 log u), u = (floor(x / 2) + 1/2) / 2^31 rounded
// to the type and phi = 2 pi y / 2^32 (float), or the same with 64-bit words and 2^63, 2^64 (double). So u keeps all
// its bits where it is small, which makes the tails, and is one with probability 2^-25 (2^-54), which gives r = 0. The
// range of the angle is reduced in integers and the logarithm is exact for that u, so both factors are good to the last
// bits of the type: the absolute error of a float normal is below 1e-6. |normal| <= sqrt(2 * 32 log 2) = 6.7
// (float), 9.4 (double).
#pragma once

#include "elementary.h"
#include "philox.h"

ALD_EXT_MATH_BEGIN

constexpr int chunk_blocks = 16;

template <typename Scalar>
constexpr int normals_per_block = 16 / sizeof(Scalar);

template <typename Scalar>
constexpr int chunk_size = chunk_blocks * normals_per_block<Scalar>;

constexpr std::int64_t max_step = (std::int64_t{1} << 40) - 1;
constexpr std::int64_t max_parameter = (std::int64_t{1} << 44) - 1;
constexpr std::int64_t max_elements = std::int64_t{1} << 41;

// Rounding takes word `lane` of the block where the element's float normal is lane `lane`.
enum class NoisePurpose : std::uint32_t { parameter_update = 0, rounding = 1 };

struct NoiseStream {
    std::uint32_t key_low, key_high;
    std::uint32_t step_low, parameter_low, high_bits;
};

ALD_EXT_INLINE NoiseStream make_noise_stream(std::uint64_t seed, std::uint64_t step, std::uint64_t parameter,
                                             NoisePurpose purpose = NoisePurpose::parameter_update) {
    const std::uint32_t high_bits = (static_cast<std::uint32_t>(purpose) << 28) |
                                    (static_cast<std::uint32_t>(parameter >> 32) << 16) |
                                    (static_cast<std::uint32_t>(step >> 32) << 8);
    return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32), static_cast<std::uint32_t>(step),
            static_cast<std::uint32_t>(parameter), high_bits};
}

// The block first_block + lane, for a first_block that shares no bits with the lane.
template <typename Word>
ALD_EXT_INLINE PhiloxBlock<Word> random_words(const NoiseStream& stream, std::uint64_t first_block, Word lane) {
    const Word block_low = lane ^ static_cast<std::uint32_t>(first_block);
    const std::uint32_t high_bits = stream.high_bits | static_cast<std::uint32_t>(first_block >> 32);
    return philox<philox_rounds>(block_low, stream.step_low, stream.parameter_low, high_bits, stream.key_low,
                                 stream.key_high);
}

template <typename Scalar>
struct NormalPair {
    Scalar first, second;
};

// SignedWord has the bits of a word; half_range is 2^(bits - 1).
template <typename Scalar, typename Word, typename SignedWord>
ALD_EXT_INLINE NormalPair<Scalar> box_muller(Word radius_word, Word angle_word, Scalar half_range) {
    constexpr int bits = 8 * sizeof(Word);
    const Scalar unit = Scalar(1) / half_range;
    const Scalar u = fused_multiply_add(static_cast<Scalar>(static_cast<SignedWord>(radius_word >> 1)), unit, unit / 2);
    const Scalar radius = square_root(Scalar(-2) * log_of(decompose(u)));

    // phi = (quadrant + t) pi / 2 with |t| <= 1/2; the top two bits of `shifted` are the quadrant.
    const Word shifted = angle_word + (Word{1} << (bits - 3));
    const Scalar t = static_cast<Scalar>(static_cast<SignedWord>(angle_word << 2)) * (unit / 2);
    const SineCosine<Scalar> direction = sine_cosine_quarter_turns(t);
    const bool odd_quadrant = static_cast<SignedWord>(shifted << 1) < 0;
    const Scalar by_sine = radius * direction.sine;
    const Scalar by_cosine = fused_multiply_add(radius, direction.cosine_less_one, radius);
    const Scalar along = odd_quadrant ? by_sine : by_cosine;
    const Scalar across = odd_quadrant ? by_cosine : by_sine;
    const Word sign_along = (shifted + (Word{1} << (bits - 2))) & (Word{1} << (bits - 1));
    const Word sign_across = shifted & (Word{1} << (bits - 1));
    return {bit_cast<Scalar>(bit_cast<Word>(along) ^ sign_along),
            bit_cast<Scalar>(bit_cast<Word>(across) ^ sign_across)};
}

template <typename Scalar>
constexpr int pairs_per_block = normals_per_block<Scalar> / 2;

// The normals of lanes 2 pair and 2 pair + 1.
template <typename Scalar, int pair>
ALD_EXT_INLINE NormalPair<Scalar> normal_pair(const PhiloxBlock<std::uint32_t>& words) {
    if constexpr (sizeof(Scalar) == 4) {
        return box_muller<float, std::uint32_t, std::int32_t>(words.word[2 * pair], words.word[2 * pair + 1], 0x1p31f);
    } else {
        const std::uint64_t radius_word = words.word[0] | (static_cast<std::uint64_t>(words.word[1]) << 32);
        const std::uint64_t angle_word = words.word[2] | (static_cast<std::uint64_t>(words.word[3]) << 32);
        return box_muller<double, std::uint64_t, std::int64_t>(radius_word, angle_word, 0x1p63);
    }
}

// Where one element has its normal: lane `lane` of the block first_block + block, of which first_block is a multiple of
// chunk_blocks.
struct NoisePlace {
    std::uint64_t first_block;
    std::uint32_t block, lane;
};

template <typename Scalar>
ALD_EXT_INLINE NoisePlace place_of_element(std::uint64_t element) {
    return {element / chunk_size<Scalar> * chunk_blocks, static_cast<std::uint32_t>(element % chunk_blocks),
            static_cast<std::uint32_t>(element % chunk_size<Scalar>) / chunk_blocks};
}

// Of the block's words, the normal of one lane, where its neighbours are not wanted.
template <typename Scalar>
ALD_EXT_INLINE Scalar normal_of_lane(const PhiloxBlock<std::uint32_t>& words, std::uint32_t lane) {
    // A float has its pair in one half of the block.
    const bool second_half = lane >= 2;
    const PhiloxBlock<std::uint32_t> half = {
        {second_half ? words.word[2] : words.word[0], second_half ? words.word[3] : words.word[1], words.word[2],
         words.word[3]}};
    const NormalPair<Scalar> pair = normal_pair<Scalar, 0>(half);
    return lane % 2 == 0 ? pair.first : pair.second;
}

template <typename Scalar>
ALD_EXT_INLINE Scalar normal_of_element(const NoiseStream& stream, std::uint64_t element) {
    const NoisePlace place = place_of_element<Scalar>(element);
    return normal_of_lane<Scalar>(random_words(stream, place.first_block, place.block), place.lane);
}

// The word of a lane; no index, which would send the block through memory.
ALD_EXT_INLINE std::uint32_t word_of_lane(const PhiloxBlock<std::uint32_t>& words, std::uint32_t lane) {
    const std::uint32_t low = lane % 2 == 0 ? words.word[0] : words.word[1];
    const std::uint32_t high = lane % 2 == 0 ? words.word[2] : words.word[3];
    return lane < 2 ? low : high;
}

// By which one element is rounded; `stream` is of NoisePurpose::rounding.
ALD_EXT_INLINE std::uint32_t rounding_word_of_element(const NoiseStream& stream, std::uint64_t element) {
    const NoisePlace place = place_of_element<float>(element);
    return word_of_lane(random_words(stream, place.first_block, place.block), place.lane);
}

template <typename Scalar>
struct NormalBlock {
    Scalar lane[normals_per_block<Scalar>];
};

template <typename Scalar>
ALD_EXT_INLINE NormalBlock<Scalar> normals_of_block(const NoiseStream& stream, std::uint64_t first_block,
                                                    std::uint32_t lane) {
    const PhiloxBlock<std::uint32_t> words = random_words(stream, first_block, lane);
    const NormalPair<Scalar> low = normal_pair<Scalar, 0>(words);
    if constexpr (pairs_per_block<Scalar> == 1) {
        return {{low.first, low.second}};
    } else {
        const NormalPair<Scalar> high = normal_pair<Scalar, 1>(words);
        return {{low.first, low.second, high.first, high.second}};
    }
}

ALD_EXT_MATH_END
