// The loops of csrc/cpu: every supported instruction set gives the bits of the plainest one, any cut of a range those
// of the whole, and nothing beyond the range is written.
#include "../cpu/kernels.h"
#include "../math/langevin_update.h"
#include "../math/marginal_gaussian.h"
#include "../math/normal.h"
#include "../math/shard.h"
#include "values.h"

namespace {

using namespace ald_ext;
using namespace ald_ext::tests;
using ald_ext::cpu::Capability;
using ald_ext::cpu::KernelTable;

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

ShardNoiseKey of_shard(const NoiseKey& key, std::int64_t row_length = 0, std::int64_t row_stride = 0) {
    return {key.seed, key.step, key.parameter, {key.offset, row_length, row_stride}};
}

template <typename Param>
struct StepInputs {
    using Scalar = Compute<Param>;

    StepInputs(std::int64_t count, bool special)
        : param(random_values<Param>(count, 11, special)),
          grad(random_values<Param>(count, 12, special)),
          states(square_of(random_values<Scalar>(max_states * count, 13, special))) {}

    std::vector<Param> param, grad;
    std::vector<Scalar> states;  // states_at
};

// Parameters, then the states, of which a step may use none.
template <typename Param>
std::vector<Compute<Param>> run_step(const Capability& capability, const Cuts& cuts, const NoiseKey& key,
                                     const LangevinSettings& settings, StepKind kind, bool special) {
    const cpu::Step<Param> step = capability.step_kernels<Param>().of(kind);
    const StepInputs<Param> inputs(cuts.back(), special);
    Guarded<Param> param(inputs.param), grad(inputs.grad);
    Guarded<Compute<Param>> states(inputs.states);
    for_each_range(cuts, [&](std::int64_t begin, std::int64_t length) {
        step(param.data(), grad.data(), states_at(states.data(), cuts.back(), 0), of_shard(key), begin, begin + length,
             settings);
    });
    check_same(widened(grad.values()), widened(inputs.grad), "a step changed its gradient");
    auto result = widened(param.values());
    append(result, states.values());
    return result;
}

// Latent rows are keyed by `key` without its parameter.
LatentNoiseKey latent_key(const NoiseKey& key, const std::vector<std::int64_t>& data, std::int64_t dimension) {
    return {key.seed, key.step, data.data(), dimension, key.offset};
}

std::int64_t rows_for(std::int64_t count, std::int64_t dimension) { return (count + dimension - 1) / dimension; }

template <typename Scalar>
std::vector<Scalar> run_latent_normal(const KernelTable<Scalar>& table, const Cuts& cuts, const NoiseKey& key,
                                      std::int64_t dimension) {
    const std::vector<std::int64_t> data = data_indices(rows_for(cuts.back(), dimension), 14);
    Guarded<Scalar> out(cuts.back());
    for_each_range(cuts, [&](std::int64_t begin, std::int64_t length) {
        table.latent_normal(out.data(), latent_key(key, data, dimension), begin, begin + length);
    });
    return out.values();
}

// z, then its momenta, which SGLD has no use for.
template <typename Scalar>
std::vector<Scalar> run_latent_step(const KernelTable<Scalar>& table, const Cuts& cuts, const NoiseKey& key,
                                    std::int64_t dimension, const NamedSettings& named, bool special) {
    const std::vector<std::int64_t> data = data_indices(rows_for(cuts.back(), dimension), 14);
    const StepInputs<Scalar> inputs(cuts.back(), special);
    Guarded<Scalar> z(inputs.param), grad(inputs.grad), momenta(inputs.states);
    const bool sgld = named.kind == StepKind::sgld;
    const cpu::LatentStep<Scalar> step = sgld ? table.latent_sgld : table.latent_sghmc;
    for_each_range(cuts, [&](std::int64_t begin, std::int64_t length) {
        step(z.data(), grad.data(), sgld ? nullptr : momenta.data(), latent_key(key, data, dimension), begin,
             begin + length, named.settings);
    });
    check_same(grad.values(), inputs.grad, "a latent step changed its gradient");
    std::vector<Scalar> result = z.values();
    append(result, momenta.values());
    return result;
}

template <typename Scalar>
std::vector<Scalar> run_log_probs(const KernelTable<Scalar>& table, const Cuts& cuts, bool special) {
    Guarded<double> squared_distance(square_of(random_values<double>(cuts.back(), 24, special)));
    Guarded<Scalar> log_prob(cuts.back());
    const MarginalGaussian density = make_marginal_gaussian({2.5, 0.75}, 3);
    for_each_range(cuts, [&](std::int64_t begin, std::int64_t length) {
        table.log_probs(squared_distance.data() + begin, length, density, log_prob.data() + begin);
    });
    return log_prob.values();
}

template <typename Scalar>
std::vector<Scalar> run_likelihood_gradients(const KernelTable<Scalar>& table, const Cuts& cuts, std::int64_t dimension,
                                             bool need_x, bool need_mean, bool special) {
    const std::int64_t count = cuts.back(), rows = (count + dimension - 1) / dimension;
    Guarded<Scalar> x(random_values<Scalar>(count, 21, special)), mean(random_values<Scalar>(count, 22, special));
    Guarded<Scalar> grad(random_values<Scalar>(rows, 23, special)), grad_x(count), grad_mean(count);
    Guarded<double> squared_distance(square_of(random_values<double>(rows, 24, special)));
    const cpu::LikelihoodGradient<Scalar> batch = {grad.data(),
                                                   x.data(),
                                                   mean.data(),
                                                   squared_distance.data(),
                                                   dimension,
                                                   make_marginal_gaussian({1, 0}, dimension),
                                                   need_x ? grad_x.data() : nullptr,
                                                   need_mean ? grad_mean.data() : nullptr};
    for_each_range(cuts, [&](std::int64_t begin, std::int64_t length) {
        table.likelihood_gradients(batch, begin, begin + length);
    });
    std::vector<Scalar> result = grad_x.values();
    append(result, grad_mean.values());
    return result;
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

// Calls use(name, run) for every loop of a type, where run(capability, cuts) gives all of its outputs. 16-bit types
// have steps only.
template <typename Param, typename Use>
void for_each_loop(const NoiseKey& key, bool special, const Use& use) {
    for (const NamedSettings& step : steps_to_test) {
        use(step.name, [=](const Capability& capability, const Cuts& cuts) {
            return run_step<Param>(capability, cuts, key, step.settings, step.kind, special);
        });
    }
    if constexpr (!rounds_stochastically<Param>) {
        const auto use_table = [&](const char* name, const auto& run) {
            use(name,
                [=](const Capability& capability, const Cuts& cuts) { return run(capability.kernels<Param>(), cuts); });
        };
        use_table("normal", [=](const auto& table, const Cuts& cuts) { return run_normal(table, cuts, key); });
        use_table("log_probs",
                  [=](const auto& table, const Cuts& cuts) { return run_log_probs(table, cuts, special); });
        for (const std::int64_t dimension : {1, 3, 16, 40}) {
            use_table("latent_normal", [=](const auto& table, const Cuts& cuts) {
                return run_latent_normal(table, cuts, key, dimension);
            });
            for (const NamedSettings& step : steps_to_test) {
                if (step.kind == StepKind::psgld || step.settings.temperature == 0) continue;
                use_table("latent", [=](const auto& table, const Cuts& cuts) {
                    return run_latent_step(table, cuts, key, dimension, step, special);
                });
            }
        }
        for (const bool need_x : {true, false}) {
            for (const bool need_mean : {true, false}) {
                for (const std::int64_t dimension : {1, 3, 700}) {
                    use_table("likelihood_gradients", [=](const auto& table, const Cuts& cuts) {
                        return run_likelihood_gradients(table, cuts, dimension, need_x, need_mean, special);
                    });
                }
            }
        }
        for (const int bits : {1, 5, 8}) {
            use_table("dequantize",
                      [=](const auto& table, const Cuts& cuts) { return run_dequantize(table, cuts, bits, special); });
            use_table("dequantize_backward", [=](const auto& table, const Cuts& cuts) {
                return run_dequantize_backward(table, cuts, bits, special);
            });
            use_table("quantize",
                      [=](const auto& table, const Cuts& cuts) { return run_quantize(table, cuts, bits, special); });
        }
    }
}

template <typename Param>
std::string describe(const std::string& name, const Capability& capability, std::int64_t count, const NoiseKey& key) {
    return name + "<" + param_name<Param>() + ">, " + capability.name + ", count " + std::to_string(count) + ", seed " +
           std::to_string(key.seed) + ", offset " + std::to_string(key.offset);
}

template <typename Param>
void test_same_bits(const Capability& plainest, const Capability& capability, bool special) {
    for (const std::int64_t count : counts) {
        for (const std::int64_t offset : offsets) {
            const NoiseKey key = moved(keys[(count + offset) % 4], offset);
            if (special && offset > 1) continue;  // strange values have nothing to do with offsets
            for_each_loop<Param>(key, special, [&](const std::string& name, const auto& run) {
                check_same(run(capability, whole(count)), run(plainest, whole(count)),
                           describe<Param>(name, capability, count, key));
            });
        }
    }
}

template <typename Param>
void test_cuts(const Capability& capability) {
    for (const NoiseKey& key : keys) {
        for (const std::int64_t offset : {std::int64_t{0}, std::int64_t{29}, (std::int64_t{1} << 34) - 77}) {
            for (const std::int64_t count : {5, 200, 3001}) {
                const NoiseKey at = moved(key, offset);
                for_each_loop<Param>(at, false, [&](const std::string& name, const auto& run) {
                    check_same(run(capability, random_cuts(count, 41 + count)), run(capability, whole(count)),
                               "cut: " + describe<Param>(name, capability, count, at));
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

// Row r of latent variables has the noise of parameter data[r].
template <typename Scalar>
void test_latent_normals(const Capability& capability) {
    const auto& table = capability.kernels<Scalar>();
    for (const NoiseKey& from_start : keys) {
        for (const std::int64_t dimension : {1, 2, 3, 5, 15, 16, 17, 31, 33, 63, 64, 65, 1000}) {
            for (const std::int64_t rows : {1, 2, 15, 33, 600}) {
                if (rows * dimension > 20000) continue;
                const NoiseKey key = moved(from_start, rows % 2 * 37);
                const std::vector<std::int64_t> data = data_indices(rows, 14);
                std::vector<Scalar> expected;
                for (const std::int64_t datum : data) {
                    append(expected, run_normal(table, whole(dimension), {key.seed, key.step, datum, key.offset}));
                }
                check_same(run_latent_normal(table, whole(rows * dimension), key, dimension), expected,
                           describe<Scalar>("latent_normal", capability, dimension, key));
            }
        }
    }
}

// --- Steps ---

// The elements of a shard of `count`, of values that begin at its first.
template <typename Value>
std::vector<Value> elements_of(const std::vector<Value>& values, const Shard& shard, std::int64_t count,
                               std::int64_t first = 0) {
    std::vector<Value> elements;
    for (std::int64_t i = 0; i < count; ++i) {
        elements.push_back(values[first + element_of_parameter(shard, i) - shard.offset]);
    }
    return elements;
}

// A shard of rows has the bits that the step of the whole parameter gives its elements.
template <typename Param>
void test_rows(const Capability& capability, const NamedSettings& named, const NoiseKey& key, std::int64_t row_length,
               std::int64_t row_stride) {
    const ShardNoiseKey shard_key = of_shard(key, row_length, row_stride);
    const Shard& shard = shard_key.shard;
    const std::int64_t count = 2 * row_length + 150;  // which ends within a row
    const std::int64_t span = element_of_parameter(shard, count - 1) + 1 - shard.offset;
    const cpu::Step<Param> step = capability.step_kernels<Param>().of(named.kind);
    StepInputs<Param> whole_of(span, false);
    const StepInputs<Param> before = whole_of;
    step(whole_of.param.data(), whole_of.grad.data(), states_at(whole_of.states.data(), span, 0), of_shard(key), 0,
         span, named.settings);
    const auto states_of = [&](const StepInputs<Param>& inputs) {
        std::vector<Compute<Param>> states;
        for (int k = 0; k < max_states; ++k) append(states, elements_of(inputs.states, shard, count, k * span));
        return states;
    };
    for (const Cuts& cuts : {whole(count), random_cuts(count, 42)}) {
        Guarded<Param> param(elements_of(before.param, shard, count)), grad(elements_of(before.grad, shard, count));
        Guarded<Compute<Param>> states(states_of(before));
        for_each_range(cuts, [&](std::int64_t begin, std::int64_t length) {
            step(param.data(), grad.data(), states_at(states.data(), count, 0), shard_key, begin, begin + length,
                 named.settings);
        });
        const std::string what = std::string(named.name) + "<" + param_name<Param>() + ">, " + capability.name +
                                 ", offset " + std::to_string(key.offset) + ", rows of " + std::to_string(row_length) +
                                 ", " + std::to_string(row_stride) + " apart";
        check_same(widened(param.values()), widened(elements_of(whole_of.param, shard, count)), what);
        check_same(states.values(), states_of(whole_of), what + ": states");
    }
}

template <typename Param>
void test_every_row(const Capability& capability) {
    for (const NamedSettings& named : steps_to_test) {
        for (const std::int64_t row_length : {1, 2, 3, 5, 7, 16, 31, 32, 33, 64, 257}) {
            for (const std::int64_t gap : {0, 1, 29, 200}) {
                NoiseKey key = keys[row_length % 4];
                for (const std::int64_t offset : {std::int64_t{0}, std::int64_t{29}, (std::int64_t{1} << 34) - 77}) {
                    test_rows<Param>(capability, named, moved(key, offset), row_length, row_length + gap);
                }
            }
        }
    }
}

// The rounding word of an element: csrc/math/normal.h, NoisePurpose.
std::uint32_t rounding_word(const NoiseKey& key, std::int64_t i) {
    const NoiseStream stream = make_noise_stream(key.seed, key.step, key.parameter, NoisePurpose::rounding);
    return random_words(stream, i / 64 * 16, static_cast<std::uint32_t>(i % 16)).word[i % 64 / 16];
}

// Every step, element by element, of the same noise.
template <typename Param>
void test_steps_by_element(const Capability& capability) {
    using Scalar = Compute<Param>;
    const std::int64_t count = 777;
    const NoiseKey key{12345, 678, 9, 1000003};
    const auto normals = run_normal(capability.kernels<Scalar>(), whole(count), key);
    for (const NamedSettings& step : steps_to_test) {
        const StepScalars<Scalar> scalars = make_step_scalars<Scalar>(step.settings);
        StepInputs<Param> inputs(count, false);
        for (std::int64_t i = 0; i < count; ++i) {
            const Scalar theta = widen(inputs.param[i]), gradient = widen(inputs.grad[i]);
            const Scalar xi = step.settings.temperature > 0 ? normals[i] : Scalar(0);
            const States<Scalar*> states = states_at(inputs.states.data(), count, i);
            const auto update = [&](auto rule) {
                States<Scalar> state = {};
                for (int k = 0; k < max_states; ++k) state.of[k] = *states.of[k];
                const Scalar prepared = rule.prepare(theta, gradient, state, scalars);
                const Scalar moved = rule.finish(theta, gradient, xi, prepared, state, scalars);
                for (int k = 0; k < max_states; ++k) *states.of[k] = state.of[k];
                return moved;
            };
            const Scalar value = with_step(step.kind, [&](auto named) {
                using Adapting = Update<decltype(named)>;
                const bool adapts = step.settings.freeze_after >= key.step;
                return adapts ? update(Adapting{}) : update(typename Adapting::Frozen{});
            });
            inputs.param[i] = round_stochastically<Param>(value, rounding_word(key, key.offset + i));
        }
        auto expected = widened(inputs.param);
        append(expected, inputs.states);
        const auto got = run_step<Param>(capability, whole(count), key, step.settings, step.kind, false);
        check_same(got, expected, "by element: " + describe<Param>(step.name, capability, count, key));
    }
}

// Step freeze_after is the last at which the preconditioner adapts.
template <typename Param>
void test_freezing(const Capability& capability) {
    LangevinSettings settings = step_to_test("psgld, adapting, noisy").settings;
    settings.freeze_after = 7;
    LangevinSettings adapting = settings, frozen = settings;
    adapting.freeze_after = INT64_MAX;
    frozen.freeze_after = -1;
    for (const std::int64_t step : {0, 6, 7, 8, 1000}) {
        const NoiseKey key{1, step, 2, 3};
        const auto run = [&](const LangevinSettings& with) {
            return run_step<Param>(capability, whole(100), key, with, StepKind::psgld, false);
        };
        const auto got = run(settings), expected = run(step <= 7 ? adapting : frozen);
        check_same(got, expected,
                   describe<Param>("freeze_after = 7, step " + std::to_string(step), capability, 100, key));
    }
}

// A latent step is that of a parameter a row, with N = 1.
template <typename Scalar>
void test_latent_steps(const Capability& capability) {
    for (const NamedSettings& named : steps_to_test) {
        if (named.kind != StepKind::sgld && named.kind != StepKind::sghmc) continue;
        const cpu::Step<Scalar> step = capability.step_kernels<Scalar>().of(named.kind);
        for (const std::int64_t dimension : {1, 2, 5, 16, 17, 64, 100}) {
            const NoiseKey key{12345, 678, 0, dimension % 3 == 2 ? 3 * dimension : 0};
            const std::int64_t rows = 35, count = rows * dimension;
            const std::vector<std::int64_t> data = data_indices(rows, 14);
            StepInputs<Scalar> expected(count, false);
            for (std::int64_t row = 0; row < rows; ++row) {
                const std::int64_t begin = row * dimension;
                step(expected.param.data() + begin, expected.grad.data() + begin,
                     states_at(expected.states.data(), count, begin), {key.seed, key.step, data[row], {key.offset}}, 0,
                     dimension, named.settings);
            }
            append(expected.param, expected.states);
            check_same(run_latent_step(capability.kernels<Scalar>(), whole(count), key, dimension, named, false),
                       expected.param, "latent " + describe<Scalar>(named.name, capability, dimension, key));
        }
    }
}

// With lr = 0 no time goes by: neither theta nor the states move.
template <typename Param>
void test_without_time(const Capability& capability) {
    for (const char* name : {"sghmc, lr = 0", "sgnht, lr = 0"}) {
        const NamedSettings& named = step_to_test(name);
        const StepInputs<Param> inputs(200, false);
        auto expected = widened(inputs.param);
        append(expected, inputs.states);
        check_same(run_step<Param>(capability, whole(200), {1, 2, 3, 4}, named.settings, named.kind, false), expected,
                   describe<Param>(named.name, capability, 200, {}));
    }
}

// Where v overflowed, G = 1 / (sqrt(v) + eps) is 0: the parameter stays, as with torch.optim.RMSprop.
template <typename Param>
void test_infinite_square_avg(const Capability& capability) {
    using Scalar = Compute<Param>;
    for (const double temperature : {0.0, 1.0}) {
        const LangevinSettings settings{.lr = 0.1, .temperature = temperature, .alpha = 0.99, .eps = 0.1};
        Param param = round_stochastically<Param>(Scalar(3), 0);
        const Param grad = round_stochastically<Param>(Scalar(1), 0);
        Scalar square_avg = std::numeric_limits<Scalar>::infinity();
        capability.step_kernels<Param>().of(StepKind::psgld)(&param, &grad, {&square_avg}, {1, 1, 0, {0}}, 0, 1,
                                                             settings);
        check(widen(param) == Scalar(3), describe<Param>("psgld, v = inf", capability, 1, {}), ", T = ", temperature,
              ": got ", widen(param), ", expected 3");
    }
}

// --- Sums ---

// csrc/math/marginal_gaussian.h, Note [Order of the sum], for one segment.
template <typename Scalar>
double ordered_sum(const Scalar* x, const Scalar* mean, std::int64_t count) {
    std::vector<Scalar> lanes(reduction_lanes, Scalar(0));
    for (std::int64_t i = 0; i < count; ++i) {
        const Scalar difference = x[i] - mean[i];
        lanes[i % reduction_lanes] = std::fma(difference, difference, lanes[i % reduction_lanes]);
    }
    for (std::size_t width = reduction_lanes / 2; width > 0; width /= 2) {
        for (std::size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
    }
    return static_cast<double>(lanes[0]);
}

const std::int64_t dimensions[] = {1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 1000, 4095, 4096, 4097, 9000};

template <typename Scalar>
void test_squared_distances(const Capability& capability, bool special) {
    for (const std::int64_t dimension : dimensions) {
        const std::int64_t rows = dimension < 100 ? 35 : 3, segments = segments_of_row(dimension);
        Guarded<Scalar> x(random_values<Scalar>(rows * dimension, 51, special));
        Guarded<Scalar> mean(random_values<Scalar>(rows * dimension, 52, special));
        Guarded<double> sums(rows * segments);
        for_each_range(random_cuts(rows * segments, 53), [&](std::int64_t begin, std::int64_t count) {
            capability.kernels<Scalar>().squared_distances(x.data(), mean.data(), dimension, begin, begin + count,
                                                           sums.data());
        });
        std::vector<double> expected;
        for (std::int64_t row = 0; row < rows; ++row) {
            for (std::int64_t first = 0; first < dimension; first += reduction_segment) {
                const std::int64_t start = row * dimension + first;
                expected.push_back(
                    ordered_sum(x.data() + start, mean.data() + start, std::min(reduction_segment, dimension - first)));
            }
        }
        check_same(sums.values(), expected,
                   describe<Scalar>("squared_distances", capability, dimension, {}) + (special ? ", strange" : ""));
    }
}

// The sum of squares overflows: infinity, not NaN.
template <typename Scalar>
void test_squared_distance_overflow(const Capability& capability) {
    const std::vector<Scalar> x(200, std::numeric_limits<Scalar>::max() / 2), zero(200, Scalar(0));
    double got = 0;
    capability.kernels<Scalar>().squared_distances(x.data(), zero.data(), 200, 0, 1, &got);
    check(got == std::numeric_limits<double>::infinity(),
          describe<Scalar>("squared_distances, overflow", capability, 200, {}), ": got ", got, ", expected inf");
}

template <typename Param>
void test_capability(const Capability& plainest, const Capability& capability) {
    test_same_bits<Param>(plainest, capability, false);
    test_same_bits<Param>(plainest, capability, true);
    test_cuts<Param>(capability);
    test_steps_by_element<Param>(capability);
    test_every_row<Param>(capability);
    test_freezing<Param>(capability);
    test_infinite_square_avg<Param>(capability);
    test_without_time<Param>(capability);
    if constexpr (!rounds_stochastically<Param>) {
        test_noise_layout<Param>(capability);
        test_latent_normals<Param>(capability);
        test_latent_steps<Param>(capability);
        test_squared_distances<Param>(capability, false);
        test_squared_distances<Param>(capability, true);
        test_squared_distance_overflow<Param>(capability);
    }
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
        test_capability<BFloat16>(built.front(), capability);
        test_capability<Half>(built.front(), capability);
    }
    return summary("test_kernels");
}
