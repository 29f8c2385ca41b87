// Compiled once per instruction set; ALD_EXT_INSTRUCTION_SET names the namespace (see csrc/math/config.h).
//
// Note [Vector loops]
// Loops over 16 blocks, 64 lanes or a range are written so that the compiler vectorizes them: no branch, no call, no
// inner loop. `ivdep` states that param, grad, state and outputs do not overlap, which csrc/ops checks.
//
// Note [Short rows]
// An element of a latent row of at most 16 has a Philox block of its own, and takes lane 0 of it. Sixteen neighbours in
// memory are made side by side, whichever rows they belong to. Tiles of a multiple of 16 rows begin at the same element
// of a row.
//
// Note [Rows of a shard]
// The rows of a shard (csrc/math/shard.h) begin and end anywhere in the chunks of the noise layout. What a tile of them
// needs of the noise is gathered first, row by row, so that one loop updates the tile. Of long rows it is made by pairs
// of lanes of a chunk, 32 elements. Shorter rows would leave most of that unused: for each of their elements its own
// block is made, 16 of them side by side.
#include "kernels.h"

#include <type_traits>

#include "../math/dequantization.h"
#include "../math/langevin_update.h"
#include "../math/marginal_gaussian.h"
#include "../math/normal.h"
#include "../math/shard.h"
#include "vector_words.h"

#define ALD_EXT_VECTORIZE _Pragma("GCC ivdep")

namespace ald_ext::cpu {
inline namespace ALD_EXT_INSTRUCTION_SET {
namespace {

// Calls run(pair) with a constant, for every pair of lanes of a block.
template <typename Scalar, typename Run>
ALD_EXT_INLINE void for_each_constant_pair(const Run& run) {
    run(std::integral_constant<int, 0>{});
    if constexpr (pairs_per_block<Scalar> == 2) run(std::integral_constant<int, 1>{});
}

// Calls use(i, first, second) with the normals i and i + 16 of a pair of lanes.
template <typename Scalar, int pair, typename Use>
ALD_EXT_INLINE void for_each_of_pair(const ChunkWords& words, const Use& use) {
    ALD_EXT_VECTORIZE
    for (int lane = 0; lane < chunk_blocks; ++lane) {
        const NormalPair<Scalar> normals = normal_pair<Scalar, pair>(words.block(lane));
        use(lane, normals.first, normals.second);
    }
}

// The normals `begin` to `end` of a chunk, and as many more as come with them.
template <typename Scalar>
void fill_chunk(Scalar* out, const ChunkWords& words, std::int64_t begin, std::int64_t end) {
    for_each_constant_pair<Scalar>([&](auto pair) {
        if (2 * pair * chunk_blocks >= end || 2 * (pair + 1) * chunk_blocks <= begin) return;
        Scalar* lanes = out + 2 * pair * chunk_blocks;
        for_each_of_pair<Scalar, pair>(words, [=](int i, Scalar first, Scalar second) {
            lanes[i] = first;
            lanes[chunk_blocks + i] = second;
        });
    });
}

// A part of a range that lies in one chunk of the noise layout.
struct ChunkPart {
    std::uint64_t chunk;
    std::int64_t begin, length;  // in the range
    std::int64_t first;          // of its elements, in the chunk
};

template <typename Scalar, typename Use>
ALD_EXT_INLINE void for_each_chunk(std::int64_t count, std::int64_t offset, const Use& use) {
    constexpr std::int64_t size = chunk_size<Scalar>;
    std::int64_t begin = 0;
    while (begin < count) {
        const std::int64_t element = offset + begin;
        const std::int64_t first = element % size;
        const std::int64_t length = size - first < count - begin ? size - first : count - begin;
        use(ChunkPart{static_cast<std::uint64_t>(element / size), begin, length, first});
        begin += length;
    }
}

// Calls finish(index, normal, prepare(index)) for every element of a chunk. Each half of the chunk is prepared just
// before its normals, so that square roots and divisions of the one run beside the multiplications of the other.
template <typename Scalar, typename Prepare, typename Finish>
ALD_EXT_INLINE void run_whole_chunk(const ChunkWords& words, std::int64_t begin, const Prepare& prepare,
                                    const Finish& finish) {
    Scalar prepared[2 * chunk_blocks];
    for_each_constant_pair<Scalar>([&](auto pair) {
        const std::int64_t base = begin + 2 * pair * chunk_blocks;
        ALD_EXT_VECTORIZE
        for (int i = 0; i < 2 * chunk_blocks; ++i) prepared[i] = prepare(base + i);
        for_each_of_pair<Scalar, pair>(words, [&](int i, Scalar first, Scalar second) {
            finish(base + i, first, prepared[i]);
            finish(base + chunk_blocks + i, second, prepared[chunk_blocks + i]);
        });
    });
}

template <typename Scalar, typename Prepare, typename Finish>
ALD_EXT_INLINE void for_each_normal(std::int64_t count, const NoiseKey& key, const Prepare& prepare,
                                    const Finish& finish) {
    const NoiseStream stream = make_noise_stream(key.seed, key.step, key.parameter);
    for_each_chunk<Scalar>(count, key.offset, [&](const ChunkPart& part) {
        const ChunkWords words = chunk_words(stream, part.chunk);
        if (part.length == chunk_size<Scalar>) {
            run_whole_chunk<Scalar>(words, part.begin, prepare, finish);
            return;
        }
        Scalar normals[chunk_size<Scalar>];
        fill_chunk(normals, words, part.first, part.first + part.length);
        ALD_EXT_VECTORIZE
        for (std::int64_t i = 0; i < part.length; ++i) {
            finish(part.begin + i, normals[part.first + i], prepare(part.begin + i));
        }
    });
}

// The counters of the elements of a tile: Note [Short rows].
class ShortRows {
  public:
    ShortRows(const LatentNoiseKey& key, std::int64_t begin, std::int64_t end)
        : key_(key),
          dimension_(static_cast<int>(key.dimension)),
          first_(static_cast<int>(begin % key.dimension)),
          size_(largest_tile / (chunk_blocks * dimension_) * chunk_blocks * dimension_),
          next_row_(begin / key.dimension),
          end_row_((end + key.dimension - 1) / key.dimension) {
        std::uint32_t element = static_cast<std::uint32_t>(first_);
        for (int i = 0; i < size_ && i < end - begin; ++i) {
            block_[i] = element;
            element = element + 1 == static_cast<std::uint32_t>(dimension_) ? 0 : element + 1;
        }
    }

    int size() const { return size_; }

    // Tiles come one after another. A row's parameter is written 16 times, past the row's end, which the next one
    // mends: a vector is stored as fast as a word.
    void begin_tile() {
        const std::int64_t left = end_row_ - next_row_, rows = (first_ + size_ + dimension_ - 1) / dimension_;
        for (std::int64_t row = 0; row < rows && row < left; ++row) {
            const NoiseStream stream = make_noise_stream(0, key_.step, key_.index[next_row_ + row]);
            std::uint32_t* low = parameter_low_ + chunk_blocks + row * dimension_ - first_;
            std::uint32_t* high = high_bits_ + chunk_blocks + row * dimension_ - first_;
            ALD_EXT_VECTORIZE
            for (int i = 0; i < chunk_blocks; ++i) low[i] = stream.parameter_low;
            ALD_EXT_VECTORIZE
            for (int i = 0; i < chunk_blocks; ++i) high[i] = stream.high_bits;
        }
        next_row_ += size_ / dimension_;
    }

    // Of the 16 elements from `first` of the tile on.
    ALD_EXT_INLINE ChunkWords words(const NoiseStream& stream, int first) const {
        return words_of_parameters(stream, block_ + first, parameter_low_ + chunk_blocks + first,
                                   high_bits_ + chunk_blocks + first);
    }

  private:
    static constexpr int largest_tile = 2 * chunk_blocks * chunk_blocks;

    LatentNoiseKey key_;
    int dimension_, first_, size_;
    std::int64_t next_row_, end_row_;
    std::uint32_t block_[largest_tile] = {};
    // With room for what is written before a tile's first element and past its last.
    static constexpr int with_margins = largest_tile + 2 * chunk_blocks;
    std::uint32_t parameter_low_[with_margins] = {}, high_bits_[with_margins] = {};
};

template <typename Scalar, typename Prepare, typename Finish>
ALD_EXT_INLINE void for_each_normal_of_short_rows(const LatentNoiseKey& key, std::int64_t begin, std::int64_t end,
                                                  const Prepare& prepare, const Finish& finish) {
    const NoiseStream stream = make_noise_stream(key.seed, key.step, 0);
    ShortRows rows(key, begin, end);
    for (std::int64_t tile = begin; tile < end; tile += rows.size()) {
        rows.begin_tile();
        for (int first = 0; first < rows.size() && tile + first < end; first += chunk_blocks) {
            const ChunkWords words = rows.words(stream, first);
            const std::int64_t base = tile + first;
            if (end - base >= chunk_blocks) {
                for_each_of_pair<Scalar, 0>(words,
                                            [&](int i, Scalar xi, Scalar) { finish(base + i, xi, prepare(base + i)); });
                continue;
            }
            Scalar normals[chunk_blocks];
            for_each_of_pair<Scalar, 0>(words, [&](int i, Scalar xi, Scalar) { normals[i] = xi; });
            for (int i = 0; i < end - base; ++i) finish(base + i, normals[i], prepare(base + i));
        }
    }
}

template <typename Scalar, typename Prepare, typename Finish>
ALD_EXT_INLINE void for_each_latent_normal(const LatentNoiseKey& key, std::int64_t begin, std::int64_t end,
                                           const Prepare& prepare, const Finish& finish) {
    if (key.dimension <= chunk_blocks && key.offset == 0) {
        if (begin < end) for_each_normal_of_short_rows<Scalar>(key, begin, end, prepare, finish);
        return;
    }
    std::int64_t stop = begin;
    for (std::int64_t start = begin; start < end; start = stop) {
        const std::int64_t row = start / key.dimension, row_end = (row + 1) * key.dimension;
        stop = row_end < end ? row_end : end;
        for_each_normal<Scalar>(
            stop - start, {key.seed, key.step, key.index[row], key.offset + start - row * key.dimension},
            [=](std::int64_t i) { return prepare(start + i); },
            [=](std::int64_t i, Scalar xi, Scalar prepared) { finish(start + i, xi, prepared); });
    }
}

template <typename Scalar>
void normal(Scalar* out, std::int64_t count, NoiseKey key) {
    const auto prepare = [](std::int64_t) { return Scalar(0); };
    for_each_normal<Scalar>(count, key, prepare, [=](std::int64_t i, Scalar xi, Scalar) { out[i] = xi; });
}

template <typename Scalar>
void latent_normal(Scalar* out, LatentNoiseKey key, std::int64_t begin, std::int64_t end) {
    const auto prepare = [](std::int64_t) { return Scalar(0); };
    const auto finish = [=](std::int64_t i, Scalar xi, Scalar) { out[i] = xi; };
    for_each_latent_normal<Scalar>(key, begin, end, prepare, finish);
}

// A part of a row that goes to `place` of a tile: `length` elements from `element` of the parameter on.
struct RowPart {
    std::int64_t element;
    int place, length;
};

// The elements of a pair of lanes, which are neighbours.
constexpr int pair_size = 2 * chunk_blocks;

// Note [Rows of a shard]: the rows from element `begin` of a shard on. Long ones are cut at the ends of pairs of lanes,
// and a tile ends where a part does, so that no pair is made twice. At every place there is room for a pair, as what is
// written past a part's end is mended by the next part.
template <typename Scalar>
struct RowTile {
    // So few that all that a tile takes stays in the nearest cache.
    static constexpr int largest = 2048 / sizeof(Scalar), most_parts = 64;

    RowPart parts[most_parts];
    int count = 0, length = 0;
    bool short_rows;

    RowTile(const Shard& shard, std::int64_t begin, std::int64_t end) : short_rows(shard.row_length < pair_size) {
        const std::int64_t size = short_rows ? max_elements : pair_size, most = end - begin;
        std::int64_t element = element_of_parameter(shard, begin);
        std::int64_t row_end = element + shard.row_length - begin % shard.row_length;
        while (length < most && length <= largest - pair_size && count < most_parts) {
            const std::int64_t cut = (element | (size - 1)) + 1, part_end = cut < row_end ? cut : row_end;
            parts[count++] = {element, length, static_cast<int>(part_end - element)};
            length += static_cast<int>(part_end - element);
            const bool row_ends = part_end == row_end;
            element = row_ends ? part_end + shard.row_stride - shard.row_length : part_end;
            row_end += row_ends ? shard.row_stride : 0;
        }
        if (length <= most) return;
        parts[count - 1].length -= length - static_cast<int>(most);
        length = static_cast<int>(most);
    }
};

// The words of the pair of lanes of every part of long rows.
template <typename Scalar>
class RowWords {
  public:
    RowWords(const NoiseStream& stream, const RowTile<Scalar>& tile) {
        constexpr int words_of_pair = 4 / pairs_per_block<Scalar>;
        std::uint64_t chunk_numbers[RowTile<Scalar>::most_parts], last = 0;
        int chunks = 0;
        for (int k = 0; k < tile.count; ++k) {
            const std::uint64_t element = tile.parts[k].element, chunk = element / chunk_size<Scalar>;
            chunks += k == 0 || chunk != last;
            chunk_numbers[chunks - 1] = last = chunk;
            of_part_[k] = chunks_[chunks - 1].word + element % chunk_size<Scalar> / pair_size * words_of_pair;
        }
        for (int c = 0; c < chunks; ++c) chunks_[c] = chunk_words(stream, chunk_numbers[c]);
    }

    using Word = std::uint32_t[chunk_blocks];

    // [word][block]
    const Word* of_part(int k) const { return of_part_[k]; }

  private:
    ChunkWords chunks_[RowTile<Scalar>::most_parts + 1];  // one more, as copies go past the end of a part
    const Word* of_part_[RowTile<Scalar>::most_parts];
};

// Copies values_of(k), of the pair of lanes of part k, to the places of the parts of long rows.
template <typename Scalar, typename Value, typename ValuesOf>
ALD_EXT_INLINE void copy_to_places(Value* out, const RowTile<Scalar>& tile, const ValuesOf& values_of) {
    for (int k = 0; k < tile.count; ++k) {
        const Value* from = values_of(k) + tile.parts[k].element % pair_size;
        Value* to = out + tile.parts[k].place;
        ALD_EXT_VECTORIZE
        for (int i = 0; i < pair_size; ++i) to[i] = from[i];
    }
}

// The same of short rows: make(elements, out) gives it for 16 elements.
template <typename Scalar, typename Value, typename Make>
ALD_EXT_INLINE void gather_short_rows(Value* out, const RowTile<Scalar>& tile, const Make& make) {
    std::uint64_t elements[RowTile<Scalar>::largest + chunk_blocks];
    Lanes counted = {};
    constexpr int width = sizeof(Lanes) / sizeof(std::uint64_t);
    for (int i = 0; i < width; ++i) counted[i] = i;
    for (int k = 0; k < tile.count; ++k) {
        const RowPart& part = tile.parts[k];
        for (int i = 0; i < part.length; i += width) {
            const Lanes neighbours = counted + static_cast<std::uint64_t>(part.element + i);
            memcpy(elements + part.place + i, &neighbours, sizeof(Lanes));
        }
    }
    memset(elements + tile.length, 0, chunk_blocks * sizeof(std::uint64_t));  // the rest of the last 16
    for (int first = 0; first < tile.length; first += chunk_blocks) make(elements + first, out + first);
}

template <typename Scalar>
struct ElementWords {
    ChunkWords words;
    std::uint32_t lane[chunk_blocks];
};

// The blocks of 16 elements, and in which lanes the elements have their noise.
template <typename Scalar>
ALD_EXT_INLINE ElementWords<Scalar> words_of_elements(const NoiseStream& stream, const std::uint64_t* elements) {
    ElementWords<Scalar> result;
    std::uint32_t block[chunk_blocks], parameter_low[chunk_blocks], high_bits[chunk_blocks];
    ALD_EXT_VECTORIZE
    for (int i = 0; i < chunk_blocks; ++i) {
        const NoisePlace place = place_of_element<Scalar>(elements[i]);
        block[i] = static_cast<std::uint32_t>(place.first_block) ^ place.block;
        high_bits[i] = stream.high_bits | static_cast<std::uint32_t>(place.first_block >> 32);
        parameter_low[i] = stream.parameter_low;
        result.lane[i] = place.lane;
    }
    result.words = words_of_parameters(stream, block, parameter_low, high_bits);
    return result;
}

template <typename Scalar>
void gather_normals(Scalar* out, const NoiseStream& stream, const RowTile<Scalar>& tile) {
    if (tile.short_rows) {
        gather_short_rows(out, tile, [&](const std::uint64_t* elements, Scalar* normals) {
            const ElementWords<Scalar> of = words_of_elements<Scalar>(stream, elements);
            ALD_EXT_VECTORIZE
            for (int i = 0; i < chunk_blocks; ++i) {
                normals[i] = normal_of_lane<Scalar>(of.words.block(i), of.lane[i]);
            }
        });
        return;
    }
    const RowWords<Scalar> words(stream, tile);
    Scalar normals[RowTile<Scalar>::most_parts + 1][pair_size];
    for (int k = 0; k < tile.count; ++k) {
        const auto* word = words.of_part(k);
        constexpr int last = 4 / pairs_per_block<Scalar> - 1;
        ALD_EXT_VECTORIZE
        for (int lane = 0; lane < chunk_blocks; ++lane) {
            const NormalPair<Scalar> pair =
                normal_pair<Scalar, 0>({{word[0][lane], word[1][lane], word[last - 1][lane], word[last][lane]}});
            normals[k][lane] = pair.first;
            normals[k][chunk_blocks + lane] = pair.second;
        }
    }
    copy_to_places(out, tile, [&](int k) { return normals[k]; });
}

// The words by which 16-bit parameters are rounded.
void gather_rounding_words(std::uint32_t* out, const NoiseStream& stream, const RowTile<float>& tile) {
    if (tile.short_rows) {
        gather_short_rows(out, tile, [&](const std::uint64_t* elements, std::uint32_t* random) {
            const ElementWords<float> of = words_of_elements<float>(stream, elements);
            ALD_EXT_VECTORIZE
            for (int i = 0; i < chunk_blocks; ++i) random[i] = word_of_lane(of.words.block(i), of.lane[i]);
        });
        return;
    }
    const RowWords<float> words(stream, tile);
    copy_to_places(out, tile, [&](int k) { return words.of_part(k)[0]; });  // word k of block b is element 16 k + b's
}

// The elements of a step, and their noise: a range of a parameter, rows of a shard, or of latent variables.
template <typename Scalar>
struct ParameterElements {
    static constexpr int tile_size = chunk_size<Scalar>;

    NoiseKey key;
    std::int64_t begin, end;  // from 0 on

    template <typename Prepare, typename Finish>
    ALD_EXT_INLINE void for_each(const Prepare& prepare, const Finish& finish) const {
        for_each_normal<Scalar>(end, key, prepare, finish);
    }

    // Calls use(begin, length, normals, rounding words) for tiles of the elements; normals are zero without noise.
    template <typename Use>
    ALD_EXT_INLINE void for_each_tile(bool noisy, const Use& use) const {
        const NoiseStream stream = make_noise_stream(key.seed, key.step, key.parameter);
        const NoiseStream rounding = make_noise_stream(key.seed, key.step, key.parameter, NoisePurpose::rounding);
        for_each_chunk<Scalar>(end, key.offset, [&](const ChunkPart& part) {
            Scalar normals[tile_size] = {};
            if (noisy) fill_chunk(normals, chunk_words(stream, part.chunk), part.first, part.first + part.length);
            const ChunkWords words = chunk_words(rounding, part.chunk);
            // Word k of block b is element 16 k + b's.
            use(part.begin, static_cast<int>(part.length), normals + part.first, &words.word[0][0] + part.first);
        });
    }
};

template <typename Scalar>
struct RowElements {
    static constexpr int tile_size = RowTile<Scalar>::largest;

    ShardNoiseKey key;
    std::int64_t begin, end;

    template <typename Prepare, typename Finish>
    ALD_EXT_INLINE void for_each(const Prepare& prepare, const Finish& finish) const {
        const NoiseStream stream = make_noise_stream(key.seed, key.step, key.parameter);
        Scalar normals[tile_size];
        for (std::int64_t first = begin; first < end;) {
            const RowTile<Scalar> tile(key.shard, first, end);
            gather_normals(normals, stream, tile);
            ALD_EXT_VECTORIZE
            for (int i = 0; i < tile.length; ++i) finish(first + i, normals[i], prepare(first + i));
            first += tile.length;
        }
    }

    template <typename Use>
    ALD_EXT_INLINE void for_each_tile(bool noisy, const Use& use) const {
        const NoiseStream stream = make_noise_stream(key.seed, key.step, key.parameter);
        const NoiseStream rounding = make_noise_stream(key.seed, key.step, key.parameter, NoisePurpose::rounding);
        Scalar normals[tile_size] = {};
        std::uint32_t random[tile_size];
        for (std::int64_t first = begin; first < end;) {
            const RowTile<Scalar> tile(key.shard, first, end);
            if (noisy) gather_normals(normals, stream, tile);
            gather_rounding_words(random, rounding, tile);
            use(first, tile.length, normals, random);
            first += tile.length;
        }
    }
};

template <typename Scalar>
struct LatentElements {
    LatentNoiseKey key;
    std::int64_t begin, end;

    template <typename Prepare, typename Finish>
    ALD_EXT_INLINE void for_each(const Prepare& prepare, const Finish& finish) const {
        for_each_latent_normal<Scalar>(key, begin, end, prepare, finish);
    }
};

// A step of parameters of the type they are computed in, where prepare and update may write the state at index:
//     prepared = prepare(index, theta, gradient),      theta <- update(index, theta, gradient, normal, prepared)
template <typename Scalar, typename Elements, typename Prepare, typename Update>
ALD_EXT_INLINE void step_exactly(Scalar* param, const Scalar* grad, const Elements& elements, bool noisy,
                                 const Prepare& prepare, const Update& update) {
    const auto prepare_element = [=](std::int64_t i) { return prepare(i, param[i], grad[i]); };
    const auto finish = [=](std::int64_t i, Scalar xi, Scalar prepared) {
        param[i] = update(i, param[i], grad[i], xi, prepared);
    };
    if (noisy) {
        elements.for_each(prepare_element, finish);
    } else {
        ALD_EXT_VECTORIZE
        for (std::int64_t i = elements.begin; i < elements.end; ++i) finish(i, Scalar(0), prepare_element(i));
    }
}

// The same for 16-bit parameters, which are rounded stochastically, with noise or without. Several loops, because one
// that mixes widths is not vectorized.
template <typename Param, typename Elements, typename Prepare, typename Update>
ALD_EXT_INLINE void step_rounding(Param* param, const Param* grad, const Elements& elements, bool noisy,
                                  const Prepare& prepare, const Update& update) {
    elements.for_each_tile(noisy, [&](std::int64_t begin, int length, const float* xi, const std::uint32_t* random) {
        Param* params = param + begin;
        const Param* grads = grad + begin;
        float theta[Elements::tile_size], gradient[Elements::tile_size];
        ALD_EXT_VECTORIZE
        for (int i = 0; i < length; ++i) theta[i] = widen(params[i]);
        ALD_EXT_VECTORIZE
        for (int i = 0; i < length; ++i) gradient[i] = widen(grads[i]);
        ALD_EXT_VECTORIZE
        for (int i = 0; i < length; ++i) {
            const float prepared = prepare(begin + i, theta[i], gradient[i]);
            theta[i] = update(begin + i, theta[i], gradient[i], xi[i], prepared);
        }
        ALD_EXT_VECTORIZE
        for (int i = 0; i < length; ++i) params[i].bits = round_stochastically<Param>(theta[i], random[i]).bits;
    });
}

template <typename Param, typename Elements, typename Prepare, typename Update>
ALD_EXT_INLINE void run_step(Param* param, const Param* grad, const Elements& elements,
                             const LangevinSettings& settings, const Prepare& prepare, const Update& update) {
    if constexpr (rounds_stochastically<Param>) {
        step_rounding(param, grad, elements, settings.temperature > 0.0, prepare, update);
    } else {
        step_exactly(param, grad, elements, settings.temperature > 0.0, prepare, update);
    }
}

// Of one element.
template <int count, typename Scalar>
ALD_EXT_INLINE States<Scalar> load_states(const States<Scalar*>& states, std::int64_t i) {
    States<Scalar> state = {};
#pragma GCC unroll max_states
    for (int k = 0; k < count; ++k) state.of[k] = states.of[k][i];
    return state;
}

template <int count, typename Scalar>
ALD_EXT_INLINE void store_states(const States<Scalar>& state, const States<Scalar*>& states, std::int64_t i) {
#pragma GCC unroll max_states
    for (int k = 0; k < count; ++k) states.of[k][i] = state.of[k];
}

// Note [The update of a step] in csrc/math/langevin_update.h.
template <typename Update, typename Step, typename Param, typename Elements>
ALD_EXT_INLINE void run_update(Param* param, const Param* grad, const States<Compute<Param>*>& states,
                               const Elements& elements, const LangevinSettings& settings) {
    using Scalar = Compute<Param>;
    constexpr int count = state_count<Step>;
    const StepScalars<Scalar> step = make_step_scalars<Scalar>(settings);
    const auto prepare = [=](std::int64_t i, Scalar theta, Scalar gradient) {
        States<Scalar> state = load_states<count>(states, i);
        const Scalar prepared = Update::prepare(theta, gradient, state, step);
        if constexpr (Update::prepare_writes) store_states<written_states<Step>>(state, states, i);
        return prepared;
    };
    run_step(param, grad, elements, settings, prepare,
             [=](std::int64_t i, Scalar theta, Scalar gradient, Scalar xi, Scalar prepared) {
                 States<Scalar> state = load_states<count>(states, i);
                 const Scalar moved = Update::finish(theta, gradient, xi, prepared, state, step);
                 if constexpr (Update::finish_writes) store_states<written_states<Step>>(state, states, i);
                 return moved;
             });
}

template <typename Step, typename Param, typename Elements>
ALD_EXT_INLINE void run_parameter_step(Param* param, const Param* grad, const States<Compute<Param>*>& states,
                                       const Elements& elements, const LangevinSettings& settings) {
    using Frozen = typename Update<Step>::Frozen;
    if constexpr (Update<Step>::prepare_writes != Frozen::prepare_writes) {
        if (elements.key.step > settings.freeze_after)
            return run_update<Frozen, Step>(param, grad, states, elements, settings);
    }
    run_update<Update<Step>, Step>(param, grad, states, elements, settings);
}

template <typename Param, typename Step>
void parameter_step(Param* param, const Param* grad, States<Compute<Param>*> states, const ShardNoiseKey& key,
                    std::int64_t begin, std::int64_t end, const LangevinSettings& settings) {
    using Scalar = Compute<Param>;
    if (key.shard.row_length > 0) {
        return run_parameter_step<Step>(param, grad, states, RowElements<Scalar>{key, begin, end}, settings);
    }
    for (int k = 0; k < state_count<Step>; ++k) states.of[k] += begin;
    const NoiseKey range = {key.seed, key.step, key.parameter, key.shard.offset + begin};
    run_parameter_step<Step>(param + begin, grad + begin, states, ParameterElements<Scalar>{range, 0, end - begin},
                             settings);
}

template <typename Scalar, typename Step>
void latent_step(Scalar* z, const Scalar* grad, Scalar* momenta, LatentNoiseKey key, std::int64_t begin,
                 std::int64_t end, const LangevinSettings& settings) {
    run_update<Update<Step>, Step>(z, grad, States<Scalar*>{momenta}, LatentElements<Scalar>{key, begin, end},
                                   settings);
}

// csrc/math/marginal_gaussian.h, Note [Order of the sum]. Lanes that no element reaches hold zero, which adds nothing;
// the tree begins above them.
int tree_width(std::int64_t count) {
    int width = reduction_lanes / 2;
    while (width >= count && width > 0) width /= 2;
    return width;
}

template <typename Scalar>
double squared_distance_of_segment(const Scalar* x, const Scalar* mean, std::int64_t count) {
    Scalar sums[reduction_lanes] = {};
    const std::int64_t whole = count - count % reduction_lanes;
    for (std::int64_t begin = 0; begin < whole; begin += reduction_lanes) {
        ALD_EXT_VECTORIZE
        for (int lane = 0; lane < reduction_lanes; ++lane) {
            sums[lane] = add_squared_difference(sums[lane], x[begin + lane], mean[begin + lane]);
        }
    }
    ALD_EXT_VECTORIZE
    for (std::int64_t lane = 0; lane < count - whole; ++lane) {
        sums[lane] = add_squared_difference(sums[lane], x[whole + lane], mean[whole + lane]);
    }
    for (int width = tree_width(count); width > 0; width /= 2) {
        ALD_EXT_VECTORIZE
        for (int lane = 0; lane < width; ++lane) sums[lane] += sums[lane + width];
    }
    return static_cast<double>(sums[0]);
}

// Rows that are shorter than a loop's overhead: sixteen at a time, side by side.
constexpr int rows_together = 16;
constexpr int short_row = 16;

template <typename Scalar>
void squared_distances_of_short_rows(const Scalar* x, const Scalar* mean, int dimension, double* sums) {
    Scalar squares[short_row][rows_together];
    for (int lane = 0; lane < dimension; ++lane) {
        ALD_EXT_VECTORIZE
        for (int row = 0; row < rows_together; ++row) {
            const int i = row * dimension + lane;
            squares[lane][row] = add_squared_difference(Scalar(0), x[i], mean[i]);
        }
    }
    for (int width = tree_width(dimension); width > 0; width /= 2) {
        for (int lane = 0; lane + width < dimension && lane < width; ++lane) {
            ALD_EXT_VECTORIZE
            for (int row = 0; row < rows_together; ++row) squares[lane][row] += squares[lane + width][row];
        }
    }
    ALD_EXT_VECTORIZE
    for (int row = 0; row < rows_together; ++row) sums[row] = static_cast<double>(squares[0][row]);
}

template <typename Scalar>
void squared_distances(const Scalar* x, const Scalar* mean, std::int64_t dimension, std::int64_t begin,
                       std::int64_t end, double* sums) {
    const std::int64_t segments = segments_of_row(dimension);
    if (0 < dimension && dimension <= short_row) {
        for (; begin + rows_together <= end; begin += rows_together) {
            squared_distances_of_short_rows(x + begin * dimension, mean + begin * dimension,
                                            static_cast<int>(dimension), sums + begin);
        }
    }
    std::int64_t row = begin / segments, segment = begin % segments;
    for (std::int64_t unit = begin; unit < end; ++unit) {
        const std::int64_t first = segment * reduction_segment, start = row * dimension + first;
        const std::int64_t count = dimension - first < reduction_segment ? dimension - first : reduction_segment;
        sums[unit] = squared_distance_of_segment(x + start, mean + start, count);
        if (++segment == segments) ++row, segment = 0;
    }
}

template <typename Scalar>
void log_probs(const double* squared_distance, std::int64_t count, const MarginalGaussian& density, Scalar* log_prob) {
    ALD_EXT_VECTORIZE
    for (std::int64_t i = 0; i < count; ++i) {
        log_prob[i] = static_cast<Scalar>(marginal_gaussian_log_prob(density, squared_distance[i]));
    }
}

// grad_x = factor(i) (x - mean), and its negative.
template <typename Scalar, typename Factor>
ALD_EXT_INLINE void scaled_difference(const LikelihoodGradient<Scalar>& batch, const Factor& factor, std::int64_t begin,
                                      std::int64_t end) {
    const Scalar *x = batch.x, *mean = batch.mean;
    Scalar *grad_x = batch.grad_x, *grad_mean = batch.grad_mean;
    if (grad_x != nullptr && grad_mean != nullptr) {
        ALD_EXT_VECTORIZE
        for (std::int64_t i = begin; i < end; ++i) {
            const Scalar value = factor(i) * (x[i] - mean[i]);
            grad_x[i] = value;
            grad_mean[i] = -value;
        }
    } else if (grad_x != nullptr) {
        ALD_EXT_VECTORIZE
        for (std::int64_t i = begin; i < end; ++i) grad_x[i] = factor(i) * (x[i] - mean[i]);
    } else if (grad_mean != nullptr) {
        ALD_EXT_VECTORIZE
        for (std::int64_t i = begin; i < end; ++i) grad_mean[i] = -(factor(i) * (x[i] - mean[i]));
    }
}

template <typename Scalar>
void likelihood_gradients(const LikelihoodGradient<Scalar>& batch, std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t rows_at_once = 64;
    const std::int64_t dimension = batch.dimension, last_row = (end + dimension - 1) / dimension;
    Scalar factors[rows_at_once];
    for (std::int64_t first = begin / dimension; first < last_row; first += rows_at_once) {
        const std::int64_t rows = last_row - first < rows_at_once ? last_row - first : rows_at_once;
        ALD_EXT_VECTORIZE
        for (std::int64_t row = 0; row < rows; ++row) {
            const double score = marginal_gaussian_score_factor(batch.density, batch.squared_distance[first + row]);
            factors[row] = static_cast<Scalar>(static_cast<double>(batch.grad[first + row]) * score);
        }
        if (dimension == 1) {
            scaled_difference(batch, [&](std::int64_t i) { return factors[i - first]; }, first, first + rows);
            continue;
        }
        for (std::int64_t row = 0; row < rows; ++row) {
            const Scalar factor = factors[row];
            const std::int64_t start = (first + row) * dimension, stop = start + dimension;
            scaled_difference(
                batch, [=](std::int64_t) { return factor; }, start < begin ? begin : start, stop < end ? stop : end);
        }
    }
}

template <typename Scalar>
Scalar largest_pixel(int bits) {
    return static_cast<Scalar>((1 << bits) - 1);
}

template <typename Scalar>
void dequantize(const std::uint8_t* x, const Scalar* h, Scalar* y, std::int64_t count, int bits) {
    const Scalar largest = largest_pixel<Scalar>(bits);
    ALD_EXT_VECTORIZE
    for (std::int64_t i = 0; i < count; ++i) y[i] = dequantize_pixel(static_cast<Scalar>(x[i]), h[i], largest);
}

template <typename Scalar>
void dequantize_backward(const Scalar* grad, const std::uint8_t* x, const Scalar* h, Scalar* grad_h, std::int64_t count,
                         int bits) {
    const Scalar largest = largest_pixel<Scalar>(bits);
    ALD_EXT_VECTORIZE
    for (std::int64_t i = 0; i < count; ++i) {
        grad_h[i] = grad[i] * dequantize_pixel_gradient(static_cast<Scalar>(x[i]), h[i], largest);
    }
}

template <typename Scalar>
void quantize(const Scalar* y, std::uint8_t* x, std::int64_t count, int bits) {
    const Scalar largest = largest_pixel<Scalar>(bits);
    ALD_EXT_VECTORIZE
    for (std::int64_t i = 0; i < count; ++i) x[i] = quantize_pixel(y[i], largest);
}

}  // namespace

template <typename Scalar>
KernelTable<Scalar> make_kernel_table() {
    return {normal<Scalar>,
            latent_normal<Scalar>,
            latent_step<Scalar, Sgld>,
            latent_step<Scalar, Sghmc>,
            squared_distances<Scalar>,
            log_probs<Scalar>,
            likelihood_gradients<Scalar>,
            dequantize<Scalar>,
            dequantize_backward<Scalar>,
            quantize<Scalar>};
}

template <typename Param, typename... Step>
StepKernels<Param> step_kernels_of(const std::tuple<Step...>&) {
    return {{parameter_step<Param, Step>...}};
}

template <typename Param>
StepKernels<Param> make_step_kernels() {
    return step_kernels_of<Param>(Steps{});
}

template KernelTable<float> make_kernel_table<float>();
template KernelTable<double> make_kernel_table<double>();
template StepKernels<float> make_step_kernels<float>();
template StepKernels<double> make_step_kernels<double>();
template StepKernels<BFloat16> make_step_kernels<BFloat16>();
template StepKernels<Half> make_step_kernels<Half>();

}  // namespace ALD_EXT_INSTRUCTION_SET
}  // namespace ald_ext::cpu
