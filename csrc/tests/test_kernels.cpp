// The loops of csrc/cpu: every supported instruction set gives the bits of the plainest one, any cut of a range those
// of the whole, and nothing beyond the range is written.
#include <algorithm>
#include <vector>

#include "../cpu/kernels.h"
#include "../math/marginal_gaussian.h"
#include "../math/normal.h"
#include "check.h"

namespace {

using namespace ald_ext;
using namespace ald_ext::tests;
using ald_ext::cpu::Capability;
using ald_ext::cpu::KernelTable;

// Values with a margin on both sides that a loop must leave alone; misaligned by one element.
template <typename Value>
class Guarded {
  public:
    explicit Guarded(std::vector<Value> values) : size_(values.size()), storage_(values.size() + 2 * margin, canary()) {
        std::copy(values.begin(), values.end(), storage_.begin() + margin);
    }
    explicit Guarded(std::int64_t size) : Guarded(std::vector<Value>(static_cast<std::size_t>(size), canary())) {}

    Value* data() { return storage_.data() + margin; }

    std::vector<Value> values() const {
        for (std::size_t i = 0; i < margin; ++i) {
            check(storage_[i] == canary() && storage_[margin + size_ + i] == canary(), "a loop wrote beyond its range");
        }
        return {storage_.begin() + margin, storage_.begin() + static_cast<std::ptrdiff_t>(margin + size_)};
    }

  private:
    static constexpr std::size_t margin = 33;
    static Value canary() { return static_cast<Value>(113); }
    std::size_t size_;
    std::vector<Value> storage_;
};

template <typename Value>
void check_same(const std::vector<Value>& got, const std::vector<Value>& expected, const std::string& what) {
    check(got.size() == expected.size(), what, ": got ", got.size(), " values, expected ", expected.size());
    for (std::size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
        if (identical(got[i], expected[i])) continue;
        check(false, what, ": element ", i, ": got ", +got[i], ", expected ", +expected[i]);
        return;
    }
    check(true, what);
}

// Normal values; `special`: with NaN, infinities, subnormals and the largest finite values strewn in.
template <typename Scalar>
std::vector<Scalar> random_values(std::int64_t count, std::uint64_t seed, bool special = false) {
    using Limits = std::numeric_limits<Scalar>;
    const Scalar strange[] = {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(), Limits::denorm_min(),
                              -Limits::min() / 2,  Limits::max(),      -Limits::max(),      Scalar(-0.0)};
    auto random = random_source(seed);
    std::normal_distribution<double> normal;
    std::vector<Scalar> values(static_cast<std::size_t>(count));
    for (Scalar& value : values) {
        value = static_cast<Scalar>(normal(random));
        if (special && random() % 4 == 0) value = strange[random() % 8];
    }
    return values;
}

template <typename Scalar>
std::vector<Scalar> square_of(std::vector<Scalar> values) {
    for (Scalar& value : values) value *= value;
    return values;
}

// --- Each loop as a function from inputs to all its outputs, run over the cuts of a range ---

using Cuts = std::vector<std::int64_t>;  // 0 = first < ... < last = count

Cuts whole(std::int64_t count) { return {0, count}; }

Cuts random_cuts(std::int64_t count, std::uint64_t seed) {
    auto random = random_source(seed);
    Cuts cuts = whole(count);
    for (int i = 0; i < 7; ++i) cuts.push_back(static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(count)));
    std::sort(cuts.begin(), cuts.end());
    return cuts;
}

template <typename Run>
void for_each_range(const Cuts& cuts, const Run& run) {
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) run(cuts[i], cuts[i + 1] - cuts[i]);
}

NoiseKey moved(NoiseKey key, std::int64_t begin) {
    key.offset += begin;
    return key;
}

template <typename Scalar>
std::vector<Scalar> run_normal(const KernelTable<Scalar>& table, const Cuts& cuts, const NoiseKey& key) {
    Guarded<Scalar> out(cuts.back());
    for_each_range(cuts, [&](std::int64_t begin, std::int64_t count) {
        table.normal(out.data() + begin, count, moved(key, begin));
    });
    return out.values();
}

// Parameters, then (pSGLD) their square averages.
template <typename Scalar>
std::vector<Scalar> run_step(const KernelTable<Scalar>& table, const Cuts& cuts, const NoiseKey& key,
                             const LangevinSettings& settings, bool preconditioned, bool special) {
    const std::int64_t count = cuts.back();
    Guarded<Scalar> param(random_values<Scalar>(count, 11, special));
    Guarded<Scalar> grad(random_values<Scalar>(count, 12, special));
    Guarded<Scalar> square_avg(square_of(random_values<Scalar>(count, 13, special)));
    for_each_range(cuts, [&](std::int64_t begin, std::int64_t length) {
        if (preconditioned) {
            table.psgld_step(param.data() + begin, grad.data() + begin, square_avg.data() + begin, length,
                             moved(key, begin), settings);
        } else {
            table.sgld_step(param.data() + begin, grad.data() + begin, length, moved(key, begin), settings);
        }
    });
    check_same(grad.values(), random_values<Scalar>(count, 12, special), "a step changed its gradient");
    std::vector<Scalar> result = param.values();
    const std::vector<Scalar> averages = square_avg.values();
    result.insert(result.end(), averages.begin(), averages.end());
    return result;
}

template <typename Scalar>
std::vector<Scalar> run_scaled_difference(const KernelTable<Scalar>& table, const Cuts& cuts, bool need_x,
                                          bool need_mean, bool special) {
    const std::int64_t count = cuts.back();
    Guarded<Scalar> x(random_values<Scalar>(count, 21, special)), mean(random_values<Scalar>(count, 22, special));
    Guarded<Scalar> out(count), negative_out(count);
    for_each_range(cuts, [&](std::int64_t begin, std::int64_t length) {
        table.scaled_difference(x.data() + begin, mean.data() + begin, -0.37, length,
                                need_x ? out.data() + begin : nullptr,
                                need_mean ? negative_out.data() + begin : nullptr);
    });
    std::vector<Scalar> result = out.values();
    const std::vector<Scalar> negative = negative_out.values();
    result.insert(result.end(), negative.begin(), negative.end());
    return result;
}

std::vector<std::uint8_t> random_pixels(std::int64_t count, int bits) {
    auto random = random_source(31);
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(count));
    for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>(random() & ((1u << bits) - 1));
    return pixels;
}

// h over all its regimes: the interior, beyond the margins, and (special) beyond all bounds.
template <typename Scalar>
std::vector<Scalar> random_places(std::int64_t count, bool special) {
    std::vector<Scalar> places = random_values<Scalar>(count, 32, special);
    for (std::size_t i = 0; i < places.size(); ++i) places[i] *= static_cast<Scalar>(1 << (i % 8));
    return places;
}

template <typename Scalar>
std::vector<Scalar> run_dequantize(const KernelTable<Scalar>& table, const Cuts& cuts, int bits, bool special) {
    Guarded<std::uint8_t> x(random_pixels(cuts.back(), bits));
    Guarded<Scalar> h(random_places<Scalar>(cuts.back(), special)), y(cuts.back());
    for_each_range(cuts, [&](std::int64_t begin, std::int64_t length) {
        table.dequantize(x.data() + begin, h.data() + begin, y.data() + begin, length, bits);
    });
    return y.values();
}

template <typename Scalar>
std::vector<Scalar> run_dequantize_backward(const KernelTable<Scalar>& table, const Cuts& cuts, int bits,
                                            bool special) {
    Guarded<std::uint8_t> x(random_pixels(cuts.back(), bits));
    Guarded<Scalar> grad(random_values<Scalar>(cuts.back(), 33, special));
    Guarded<Scalar> h(random_places<Scalar>(cuts.back(), special)), grad_h(cuts.back());
    for_each_range(cuts, [&](std::int64_t begin, std::int64_t length) {
        table.dequantize_backward(grad.data() + begin, x.data() + begin, h.data() + begin, grad_h.data() + begin,
                                  length, bits);
    });
    return grad_h.values();
}

template <typename Scalar>
std::vector<std::uint8_t> run_quantize(const KernelTable<Scalar>& table, const Cuts& cuts, int bits, bool special) {
    Guarded<Scalar> y(random_places<Scalar>(cuts.back(), special));
    Guarded<std::uint8_t> x(cuts.back());
    for_each_range(cuts, [&](std::int64_t begin, std::int64_t length) {
        table.quantize(y.data() + begin, x.data() + begin, length, bits);
    });
    return x.values();
}

// --- What every instruction set must agree on ---

const std::int64_t counts[] = {1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 1000, 4096, 5003};

// Ends of chunks, the carry of the block into the counter's high word, the last elements.
const std::int64_t offsets[] = {0,
                                1,
                                7,
                                31,
                                32,
                                63,
                                64,
                                65,
                                1000003,
                                (std::int64_t{1} << 33) - 5,
                                (std::int64_t{1} << 34) - 77,
                                max_elements - 5003};

const NoiseKey keys[] = {{0, 0, 0, 0},
                         {1, 1, 0, 0},
                         {INT64_MAX, max_step, max_parameter, 0},
                         {0x123456789abcdef, (std::int64_t{1} << 32) + 3, (std::int64_t{1} << 33) + 5, 0}};

struct NamedSettings {
    const char* name;
    LangevinSettings settings;
    bool preconditioned;
};

const NamedSettings steps[] = {
    {"sgld, noisy", {0.1, 0.01, 1.5, 100, false, 0, 0, false}, false},
    {"sgld, T = 0, maximize", {0.1, 0.01, 0, 100, true, 0, 0, false}, false},
    {"psgld, adapting, noisy", {0.01, 0.1, 0.5, 10, false, 0.99, 0.1, true}, true},
    {"psgld, adapting, T = 0, maximize", {0.01, 0.1, 0, 10, true, 0.99, 1e-8, true}, true},
    {"psgld, frozen, noisy", {0.01, 0, 2, 1, false, 0.9, 0.1, false}, true},
    {"psgld, frozen, T = 0", {0.01, 0, 0, 1, false, 0.9, 1e-3, false}, true},
};

// Calls use(name, run) for every loop, where run(table, cuts) gives all of its outputs.
template <typename Scalar, typename Use>
void for_each_loop(const NoiseKey& key, bool special, const Use& use) {
    using Table = KernelTable<Scalar>;
    use("normal", [=](const Table& table, const Cuts& cuts) { return run_normal(table, cuts, key); });
    for (const NamedSettings& step : steps) {
        use(step.name, [=](const Table& table, const Cuts& cuts) {
            return run_step(table, cuts, key, step.settings, step.preconditioned, special);
        });
    }
    for (const bool need_x : {true, false}) {
        for (const bool need_mean : {true, false}) {
            use("scaled_difference", [=](const Table& table, const Cuts& cuts) {
                return run_scaled_difference(table, cuts, need_x, need_mean, special);
            });
        }
    }
    for (const int bits : {1, 5, 8}) {
        use("dequantize",
            [=](const Table& table, const Cuts& cuts) { return run_dequantize(table, cuts, bits, special); });
        use("dequantize_backward",
            [=](const Table& table, const Cuts& cuts) { return run_dequantize_backward(table, cuts, bits, special); });
        use("quantize", [=](const Table& table, const Cuts& cuts) { return run_quantize(table, cuts, bits, special); });
    }
}

template <typename Scalar>
std::string describe(const std::string& name, const Capability& capability, std::int64_t count, const NoiseKey& key) {
    return name + "<" + type_name<Scalar>() + ">, " + capability.name + ", count " + std::to_string(count) + ", seed " +
           std::to_string(key.seed) + ", offset " + std::to_string(key.offset);
}

template <typename Scalar>
void test_same_bits(const Capability& plainest, const Capability& capability, bool special) {
    for (const std::int64_t count : counts) {
        for (const std::int64_t offset : offsets) {
            const NoiseKey key = moved(keys[(count + offset) % 4], offset);
            if (special && offset > 1) continue;  // strange values have nothing to do with offsets
            for_each_loop<Scalar>(key, special, [&](const std::string& name, const auto& run) {
                const auto expected = run(plainest.kernels<Scalar>(), whole(count));
                const auto got = run(capability.kernels<Scalar>(), whole(count));
                check_same(got, expected, describe<Scalar>(name, capability, count, key));
            });
        }
    }
}

template <typename Scalar>
void test_cuts(const Capability& capability) {
    for (const NoiseKey& key : keys) {
        for (const std::int64_t offset : {std::int64_t{0}, std::int64_t{29}, (std::int64_t{1} << 34) - 77}) {
            for (const std::int64_t count : {5, 200, 3001}) {
                const NoiseKey at = moved(key, offset);
                for_each_loop<Scalar>(at, false, [&](const std::string& name, const auto& run) {
                    const auto expected = run(capability.kernels<Scalar>(), whole(count));
                    const auto got = run(capability.kernels<Scalar>(), random_cuts(count, 41 + count));
                    check_same(got, expected, "cut: " + describe<Scalar>(name, capability, count, at));
                });
            }
        }
    }
}

// csrc/math/normal.h, Note [Noise layout], element by element.
template <typename Scalar>
void test_noise_layout(const Capability& capability) {
    constexpr std::int64_t size = chunk_size<Scalar>;
    for (const NoiseKey& key : keys) {
        const std::int64_t offset = (std::int64_t{1} << 34) - 77;
        const auto got = run_normal(capability.kernels<Scalar>(), whole(300), moved(key, offset));
        const NoiseStream stream = make_noise_stream(key.seed, key.step, key.parameter);
        std::vector<Scalar> expected;
        for (std::int64_t i = offset; i < offset + 300; ++i) {
            const std::int64_t block = 16 * (i / size) + i % 16, lane = (i % size) / 16;
            // A chunk's blocks share their high word, so block - block % 16 may be passed as the first one.
            expected.push_back(normals_of_block<Scalar>(stream, block - block % 16, block % 16).lane[lane]);
        }
        check_same(got, expected, describe<Scalar>("noise layout", capability, 300, moved(key, offset)));
    }
}

// csrc/math/marginal_gaussian.h, Note [Order of the sum], for one segment.
template <typename Scalar>
double ordered_sum(const std::vector<Scalar>& x, const std::vector<Scalar>& mean) {
    std::vector<Scalar> lanes(reduction_lanes, Scalar(0));
    for (std::size_t i = 0; i < x.size(); ++i) {
        const Scalar difference = x[i] - mean[i];
        lanes[i % reduction_lanes] = std::fma(difference, difference, lanes[i % reduction_lanes]);
    }
    for (std::size_t width = reduction_lanes / 2; width > 0; width /= 2) {
        for (std::size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
    }
    return static_cast<double>(lanes[0]);
}

template <typename Scalar>
void test_squared_distance(const Capability& capability, bool special) {
    for (std::int64_t count : counts) {
        count = std::min(count, reduction_segment);
        const auto x = random_values<Scalar>(count, 51, special), mean = random_values<Scalar>(count, 52, special);
        const double got = capability.kernels<Scalar>().squared_distance(x.data(), mean.data(), count);
        const double expected = ordered_sum(x, mean);
        check(identical(got, expected), describe<Scalar>("squared_distance", capability, count, {}),
              special ? ", strange values" : "", ": got ", got, ", expected ", expected);
    }
}

// The sum of squares overflows: infinity, not NaN.
template <typename Scalar>
void test_squared_distance_overflow(const Capability& capability) {
    const std::vector<Scalar> x(200, std::numeric_limits<Scalar>::max() / 2), zero(200, Scalar(0));
    const double got = capability.kernels<Scalar>().squared_distance(x.data(), zero.data(), 200);
    check(got == std::numeric_limits<double>::infinity(),
          describe<Scalar>("squared_distance, overflow", capability, 200, {}), ": got ", got, ", expected inf");
}

// Where v overflowed, G = 1 / (sqrt(v) + eps) is 0: the parameter stays, as with torch.optim.RMSprop.
template <typename Scalar>
void test_infinite_square_avg(const Capability& capability) {
    for (const double temperature : {0.0, 1.0}) {
        const LangevinSettings settings{0.1, 0, temperature, 1, false, 0.99, 0.1, true};
        Scalar param = 3, grad = 1, square_avg = std::numeric_limits<Scalar>::infinity();
        capability.kernels<Scalar>().psgld_step(&param, &grad, &square_avg, 1, {1, 1, 0, 0}, settings);
        check(param == Scalar(3), describe<Scalar>("psgld, v = inf", capability, 1, {}), ", T = ", temperature,
              ": got ", param, ", expected 3");
    }
}

template <typename Scalar>
void test_capability(const Capability& plainest, const Capability& capability) {
    test_same_bits<Scalar>(plainest, capability, false);
    test_same_bits<Scalar>(plainest, capability, true);
    test_cuts<Scalar>(capability);
    test_noise_layout<Scalar>(capability);
    test_squared_distance<Scalar>(capability, false);
    test_squared_distance<Scalar>(capability, true);
    test_squared_distance_overflow<Scalar>(capability);
    test_infinite_square_avg<Scalar>(capability);
}

}  // namespace

int main() {
    const std::vector<Capability>& built = cpu::built_capabilities();
    check(!built.empty() && built.front().supported, "the plainest instruction set is not supported");
    for (const Capability& capability : built) {
        if (!capability.supported) {
            std::cout << capability.name << ": skipped, this machine lacks it\n";
            continue;
        }
        std::cout << capability.name << "\n";
        test_capability<float>(built.front(), capability);
        test_capability<double>(built.front(), capability);
    }
    return summary("test_kernels");
}
