// The kernels of csrc/cuda, run on the CPU (cuda_emulation/cuda_runtime_api.h): they give the bits of the loops of
// csrc/cpu for every shape and alignment, write nothing beyond their outputs, and take the launches they should. What
// this does not see is what only a GPU has: warps in lockstep, memory that is not coherent, speed.
#include "../cpu/kernels.h"
#include "../cuda/dequantization.cu"
#include "../cuda/likelihood.cu"
#include "../cuda/steps.cu"
#include "values.h"

namespace {

using namespace ald_ext;
using namespace ald_ext::tests;

const cpu::Capability& on_cpu() { return cpu::capability_in_use(); }

// Runs `run` and checks how many kernels it launches.
template <typename Run>
void check_launches(unsigned expected, const std::string& what, const Run& run) {
    const unsigned before = emulation::launches;
    run();
    check(emulation::launches - before == expected, what, ": ", emulation::launches - before,
          " kernels launched, expected ", expected);
}

template <typename Param, typename... Numbers>
std::string describe(const char* name, Numbers... numbers) {
    std::string text = std::string(name) + "<" + param_name<Param>() + ">";
    ((text += " " + std::to_string(numbers)), ...);
    return text;
}

// --- Noise ---

template <typename Scalar>
void test_normal(std::int64_t count, std::int64_t offset, int misalignment) {
    const NoiseKey key{INT64_MAX - 5, (std::int64_t{1} << 33) + 7, 12, offset};
    Guarded<Scalar> got(count, misalignment), expected(count);
    cuda::normal(got.data(), count, key, nullptr);
    on_cpu().kernels<Scalar>().normal(expected.data(), count, key);
    check_same(got.values(), expected.values(), describe<Scalar>("normal", count, offset, misalignment));
}

template <typename Scalar>
void test_normals() {
    for (const std::int64_t count : {1, 3, 16, 63, 64, 65, 1023, 1024, 2047, 2048, 2049, 5003}) {
        for (const std::int64_t offset : {std::int64_t{0}, std::int64_t{1}, std::int64_t{4}, std::int64_t{29},
                                          std::int64_t{64}, (std::int64_t{1} << 34) - 77, max_elements - 5003}) {
            test_normal<Scalar>(count, offset, static_cast<int>((count + offset) % 2));
        }
    }
}

// --- Steps ---

// The tensors of a step; their places and alignments differ.
template <typename Param>
class StepTensors {
  public:
    using Scalar = Compute<Param>;

    // With rows of `row_length` elements every second tensor is made of rows; 0: none.
    StepTensors(const std::vector<std::int64_t>& sizes, std::int64_t offset, bool special, std::int64_t row_length) {
        for (std::size_t i = 0; i < sizes.size(); ++i) {
            const int place = static_cast<int>(i);
            Shard shard = {offset + place % 5 * 7};
            if (row_length > 0 && place % 2 == 0) shard = {shard.offset, row_length, row_length + place};
            tensors_.push_back(
                {Guarded<Param>(random_values<Param>(sizes[i], 3 * i + 1, special), place % 3),
                 Guarded<Param>(random_values<Param>(sizes[i], 3 * i + 2, special), place / 3 % 2),
                 Guarded<Scalar>(square_of(random_values<Scalar>(max_states * sizes[i], 3 * i + 3, special)),
                                 place / 6 % 2),
                 sizes[i], static_cast<std::int64_t>(i * i), shard});
        }
    }

    std::vector<cuda::StepTensor<Param>> list() {
        std::vector<cuda::StepTensor<Param>> list;
        for (Tensor& tensor : tensors_) {
            list.push_back({tensor.param.data(), tensor.grad.data(), states_at(tensor.states.data(), tensor.numel, 0),
                            tensor.numel, tensor.parameter, tensor.shard});
        }
        return list;
    }

    std::vector<Scalar> values() const {
        std::vector<Scalar> result;
        for (const Tensor& tensor : tensors_) {
            append(result, widened(tensor.param.values()));
            append(result, widened(tensor.grad.values()));
            append(result, tensor.states.values());
        }
        return result;
    }

  private:
    struct Tensor {
        Guarded<Param> param, grad;
        Guarded<Scalar> states;
        std::int64_t numel, parameter;
        Shard shard;
    };
    std::vector<Tensor> tensors_;
};

template <typename Param>
void step_on_cpu(StepKind kind, const std::vector<cuda::StepTensor<Param>>& tensors, std::int64_t seed,
                 std::int64_t step, const LangevinSettings& settings) {
    for (const auto& tensor : tensors) {
        const ShardNoiseKey key{seed, step, tensor.parameter, tensor.shard};
        on_cpu().step_kernels<Param>().of(kind)(tensor.param, tensor.grad, tensor.states, key, 0, tensor.numel,
                                                settings);
    }
}

// Which of lr and step are on the device; the values beside them must not be looked at.
struct Clock {
    bool lr, lr_is_double, step;
};

template <typename Param>
void test_step(const NamedSettings& named, const Clock& clock, const std::vector<std::int64_t>& sizes,
               std::int64_t offset, bool special, std::int64_t row_length = 0) {
    const std::int64_t seed = 0x123456789abcdef, step = (std::int64_t{1} << 32) + 3, wrong_step = 5;
    LangevinSettings settings = named.settings, given = named.settings;
    const double lr_in_double = settings.lr;
    const float lr_in_float = static_cast<float>(settings.lr);
    if (clock.lr && !clock.lr_is_double) settings.lr = lr_in_float;
    if (clock.lr) given.lr = 1e10;
    DeviceClock device;
    if (clock.lr) device.lr = clock.lr_is_double ? static_cast<const void*>(&lr_in_double) : &lr_in_float;
    device.lr_is_double = clock.lr_is_double;
    if (clock.step) device.step = &step;

    StepTensors<Param> got(sizes, offset, special, row_length), expected(sizes, offset, special, row_length);
    const std::string what =
        describe<Param>(named.name, sizes.size(), sizes[0], offset, clock.lr, clock.step, row_length);
    const std::size_t of_rows = row_length > 0 ? (sizes.size() + 1) / 2 : 0, per_launch = cuda::tensors_per_launch;
    const auto launches_for = [=](std::size_t tensors) { return (tensors + per_launch - 1) / per_launch; };
    check_launches(static_cast<unsigned>(launches_for(of_rows) + launches_for(sizes.size() - of_rows)), what, [&] {
        cuda::langevin_step(named.kind, got.list(), seed, clock.step ? wrong_step : step, device, given, nullptr);
    });
    step_on_cpu(named.kind, expected.list(), seed, step, settings);
    check_same(got.values(), expected.values(), what);
}

const Clock on_host = {false, false, false};
const Clock clocks[] = {on_host, {true, false, true}, {true, true, false}, {false, false, true}};

template <typename Param>
void test_steps() {
    const std::int64_t far = (std::int64_t{1} << 34) - 77;
    for (const NamedSettings& named : steps_to_test) {
        for (const bool special : {false, true}) {
            for (const std::int64_t offset : {std::int64_t{0}, std::int64_t{29}, far}) {
                test_step<Param>(named, on_host, {2500, 1, 64, 0, 63, 2048, 17}, offset, special);
            }
        }
        for (const std::int64_t row_length : {1, 2, 3, 5, 7, 16, 33, 257}) {
            test_step<Param>(named, on_host, {700, 1, 64, 5, 129, 2049}, row_length % 2 == 0 ? 29 : far, false,
                             row_length);
        }
        for (const Clock& clock : clocks) {
            test_step<Param>(named, clock, {100, 2049}, 0, false);
            test_step<Param>(named, clock, {100, 2049}, 0, true, 33);
        }
        test_step<Param>(named, on_host, std::vector<std::int64_t>(32, 312), 0, false);
        test_step<Param>(named, on_host, std::vector<std::int64_t>(150, 37), 0, false);
        test_step<Param>(named, on_host, std::vector<std::int64_t>(150, 37), 0, false, 5);
    }
    // Step freeze_after is the last at which the preconditioner adapts.
    NamedSettings freezing = step_to_test("psgld, adapting, noisy");
    for (const std::int64_t freeze_after : {2, 3}) {
        freezing.settings.freeze_after = (std::int64_t{1} << 32) + freeze_after;
        for (const Clock& clock : clocks) test_step<Param>(freezing, clock, {100}, 0, false);
    }
}

// --- Latent variables ---

template <typename Scalar>
void test_latent(std::int64_t rows, std::int64_t dimension) {
    const std::int64_t count = rows * dimension;
    const std::vector<std::int64_t> data = data_indices(rows, 71);
    const LatentNoiseKey key{INT64_MAX - 5, (std::int64_t{1} << 33) + 7, data.data(), dimension, rows % 3 * 1000003};
    const auto& kernels = on_cpu().kernels<Scalar>();
    const unsigned launches = count > 0 ? 1 : 0;

    const std::string what = describe<Scalar>("latent_normal", rows, dimension);
    Guarded<Scalar> got(count), expected(count);
    check_launches(launches, what, [&] { cuda::latent_normal(got.data(), count, key, nullptr); });
    kernels.latent_normal(expected.data(), key, 0, count);
    check_same(got.values(), expected.values(), what);

    for (const NamedSettings& named : steps_to_test) {
        if (named.kind == StepKind::psgld) continue;
        const bool sgld = named.kind == StepKind::sgld;
        const std::string step = "latent " + describe<Scalar>(named.name, rows, dimension);
        const std::vector<Scalar> z = random_values<Scalar>(count, 72, true), p = random_values<Scalar>(count, 73);
        Guarded<Scalar> grad(random_values<Scalar>(count, 74, true));
        Guarded<Scalar> got_z(z), got_p(p), expected_z(z), expected_p(p);
        check_launches(launches, step, [&] {
            cuda::latent_step<Scalar>({got_z.data(), grad.data(), sgld ? nullptr : got_p.data(), count, key},
                                      named.settings, nullptr);
        });
        (sgld ? kernels.latent_sgld : kernels.latent_sghmc)(expected_z.data(), grad.data(), expected_p.data(), key, 0,
                                                            count, named.settings);
        check_same(got_z.values(), expected_z.values(), step);
        check_same(got_p.values(), expected_p.values(), step + ": momentum");
    }
}

template <typename Scalar>
void test_latents() {
    for (const std::int64_t dimension : {0, 1, 2, 3, 16, 17, 63, 64, 65, 1000}) {
        for (const std::int64_t rows : {0, 1, 5, 129}) {
            if (rows * dimension < 20000) test_latent<Scalar>(rows, dimension);
        }
    }
}

// --- Likelihood ---

struct Shape {
    std::int64_t rows, dimension;
    int misalignment;  // of x; the others differ
    bool special;
    std::int64_t count() const { return rows * dimension; }
};

const PrecisionPrior priors[] = {{1, 0}, {2.5, 0.75}};

template <typename Scalar>
struct LogProbs {
    std::vector<double> squared_distance;
    std::vector<Scalar> log_prob;
};

template <typename Scalar>
LogProbs<Scalar> log_probs_on_cpu(const Scalar* x, const Scalar* mean, const Shape& shape,
                                  const PrecisionPrior& prior) {
    const auto& kernels = on_cpu().kernels<Scalar>();
    const std::int64_t segments = segments_of_row(shape.dimension);
    std::vector<double> sums(static_cast<std::size_t>(shape.rows * segments));
    kernels.squared_distances(x, mean, shape.dimension, 0, shape.rows * segments, sums.data());
    LogProbs<Scalar> result;
    for (std::int64_t row = 0; row < shape.rows; ++row) {
        double sum = 0.0;
        for (std::int64_t s = 0; s < segments; ++s) sum += sums[row * segments + s];
        result.squared_distance.push_back(sum);
    }
    result.log_prob.resize(shape.rows);
    kernels.log_probs(result.squared_distance.data(), shape.rows, make_marginal_gaussian(prior, shape.dimension),
                      result.log_prob.data());
    return result;
}

// Calls run(arguments) and compares what it wrote.
template <typename Scalar, typename Run>
void check_log_probs(Guarded<Scalar>& mean, const Shape& shape, const PrecisionPrior& prior,
                     const LogProbs<Scalar>& expected, const std::string& what, const Run& run) {
    Guarded<double> workspace(cuda::likelihood_workspace(shape.rows, shape.dimension)), squared_distance(shape.rows);
    Guarded<Scalar> log_prob(shape.rows);
    const unsigned launches = shape.rows == 0 ? 0 : shape.dimension <= reduction_segment ? 1 : 2;
    check_launches(launches, what, [&] {
        run(cuda::LogProbArguments<Scalar>{mean.data(), shape.rows, shape.dimension, prior, workspace.data(),
                                           squared_distance.data(), log_prob.data()});
    });
    workspace.values();
    check_same(squared_distance.values(), expected.squared_distance, what + ": squared_distance");
    check_same(log_prob.values(), expected.log_prob, what + ": log_prob");
}

template <typename Scalar>
cuda::GradientArguments<Scalar> gradient_arguments(const cpu::LikelihoodGradient<Scalar>& batch, const Shape& shape,
                                                   const PrecisionPrior& prior, Scalar* grad_x, Scalar* grad_mean) {
    return {batch.grad, batch.x, batch.mean, batch.squared_distance, shape.rows, shape.dimension,
            prior,      grad_x,  grad_mean};
}

// The likelihood of given rows and of dequantized ones, forwards and backwards.
template <typename Scalar>
void test_likelihood(const Shape& shape) {
    const int bits = shape.dimension % 2 == 0 ? 8 : 3, misalignment = shape.misalignment;
    const std::int64_t count = shape.count();
    const std::string what =
        describe<Scalar>("likelihood", shape.rows, shape.dimension, misalignment) + (shape.special ? ", strange" : "");
    const PrecisionPrior& prior = priors[shape.dimension % 2];
    const auto& kernels = on_cpu().kernels<Scalar>();

    std::vector<Scalar> values = random_values<Scalar>(count, 61, shape.special);
    const std::vector<Scalar> means = random_values<Scalar>(count, 62, shape.special);
    for (std::int64_t i = 0; i < std::min(count, shape.dimension); ++i) values[i] = means[i];  // r = 0 in the first row
    Guarded<Scalar> x(values, misalignment), mean(means, misalignment / 2), grad(random_values<Scalar>(shape.rows, 63));
    Guarded<std::uint8_t> pixels(random_pixels(count, bits), misalignment);
    Guarded<Scalar> h(random_places<Scalar>(count, shape.special), misalignment);

    const LogProbs<Scalar> expected = log_probs_on_cpu(x.data(), mean.data(), shape, prior);
    check_log_probs(mean, shape, prior, expected, what,
                    [&](const auto& arguments) { cuda::marginal_gaussian_log_prob(x.data(), arguments, nullptr); });

    Guarded<Scalar> y(count, misalignment), expected_y(count);
    kernels.dequantize(pixels.data(), h.data(), expected_y.data(), count, bits);
    const LogProbs<Scalar> of_y = log_probs_on_cpu(expected_y.data(), mean.data(), shape, prior);
    const cuda::Pixels<Scalar> dequantized = {pixels.data(), h.data(), bits};
    check_log_probs(mean, shape, prior, of_y, "dequantized " + what, [&](const auto& arguments) {
        cuda::dequantized_log_prob(dequantized, y.data(), arguments, nullptr);
    });
    check_same(y.values(), expected_y.values(), what + ": y");

    Guarded<Scalar> grad_x(count, misalignment), grad_mean(count, misalignment / 2), grad_h(count, misalignment);
    Guarded<Scalar> expected_grad_x(count), expected_grad_mean(count);
    cpu::LikelihoodGradient<Scalar> batch = {grad.data(),
                                             x.data(),
                                             mean.data(),
                                             expected.squared_distance.data(),
                                             shape.dimension,
                                             make_marginal_gaussian(prior, shape.dimension),
                                             expected_grad_x.data(),
                                             expected_grad_mean.data()};
    if (count > 0) kernels.likelihood_gradients(batch, 0, count);
    check_launches(count > 0 ? 2 : 0, what + ": backward", [&] {
        cuda::marginal_gaussian_log_prob_backward(
            gradient_arguments<Scalar>(batch, shape, prior, grad_x.data(), nullptr), nullptr);
        check_same(grad_x.values(), expected_grad_x.values(), what + ": grad_x alone");
        cuda::marginal_gaussian_log_prob_backward(
            gradient_arguments<Scalar>(batch, shape, prior, nullptr, grad_mean.data()), nullptr);
        check_same(grad_mean.values(), expected_grad_mean.values(), what + ": grad_mean alone");
    });

    batch.x = expected_y.data();
    batch.squared_distance = of_y.squared_distance.data();
    if (count > 0) kernels.likelihood_gradients(batch, 0, count);
    kernels.dequantize_backward(expected_grad_x.data(), pixels.data(), h.data(), expected_grad_x.data(), count, bits);
    check_launches(count > 0 ? 1 : 0, what + ": dequantized backward", [&] {
        cuda::dequantized_log_prob_backward(
            dequantized, gradient_arguments(batch, shape, prior, grad_h.data(), grad_mean.data()), nullptr);
    });
    check_same(grad_h.values(), expected_grad_x.values(), what + ": grad_h");
    check_same(grad_mean.values(), expected_grad_mean.values(), what + ": grad_mean");
}

template <typename Scalar>
void test_likelihoods() {
    for (const std::int64_t dimension : {0,  1,  2,   3,   4,   7,    8,    15,   16,   17,   20,   63,   64,
                                         65, 68, 100, 256, 700, 1023, 1025, 2048, 4092, 4095, 4096, 4097, 10000}) {
        for (const std::int64_t rows : {1, 2, 9}) {
            for (const int misalignment : {0, 1, 2, 4}) {
                for (const bool special : {false, true}) {
                    if (dimension * rows < 20000) test_likelihood<Scalar>({rows, dimension, misalignment, special});
                }
            }
        }
    }
    test_likelihood<Scalar>({0, 5, 0, false});
    test_likelihood<Scalar>({3, 10000, 0, false});
    test_likelihood<Scalar>({2, 35 * reduction_segment + 4, 0, false});  // more segments than a warp has threads
    for (const std::int64_t dimension : {1, 2, 3, 5, 16, 17}) test_likelihood<Scalar>({5003, dimension, 0, false});
}

// --- Dequantization ---

template <typename Scalar>
void test_dequantize(std::int64_t count, int bits, int misalignment, bool special) {
    const std::string what = describe<Scalar>("dequantize", count, bits, misalignment) + (special ? ", strange" : "");
    const auto& kernels = on_cpu().kernels<Scalar>();
    Guarded<std::uint8_t> x(random_pixels(count, bits), misalignment), back(count, misalignment), expected_back(count);
    Guarded<Scalar> h(random_places<Scalar>(count, special), misalignment % 4), grad(random_values<Scalar>(count, 71));
    Guarded<Scalar> y(count, misalignment / 2), expected_y(count), grad_h(count), expected_grad_h(count);
    const cuda::Pixels<Scalar> pixels = {x.data(), h.data(), bits};

    cuda::dequantize(pixels, y.data(), count, nullptr);
    kernels.dequantize(x.data(), h.data(), expected_y.data(), count, bits);
    check_same(y.values(), expected_y.values(), what);
    cuda::dequantize_backward(grad.data(), pixels, grad_h.data(), count, nullptr);
    kernels.dequantize_backward(grad.data(), x.data(), h.data(), expected_grad_h.data(), count, bits);
    check_same(grad_h.values(), expected_grad_h.values(), what + ": backward");
    cuda::quantize(h.data(), back.data(), count, bits, nullptr);
    kernels.quantize(h.data(), expected_back.data(), count, bits);
    check_same(back.values(), expected_back.values(), what + ": quantize");
}

template <typename Scalar>
void test_dequantizations() {
    for (const std::int64_t count : {0, 1, 3, 4, 5, 511, 513, 1023, 1024, 1025, 2047, 2048, 2049, 5003}) {
        for (const int bits : {1, 5, 8}) {
            for (const int misalignment : {0, 1, 4}) {
                for (const bool special : {false, true}) test_dequantize<Scalar>(count, bits, misalignment, special);
            }
        }
    }
}

// --- Sizes beyond 2^31: only the last elements are there, and only the last block runs ---

constexpr std::int64_t far_count = (std::int64_t{1} << 40) - 37;

// Values at the end of a range, of which `beginning` would be the first.
template <typename Value>
struct FarEnd {
    explicit FarEnd(const std::vector<Value>& values, std::int64_t range)
        : guarded(values, 0), beginning(guarded.data() - (range - static_cast<std::int64_t>(values.size()))) {}

    Guarded<Value> guarded;
    Value* beginning;
};

// Calls run(from) with all but the last block left out, which begins at element `from`.
template <typename Run>
void in_last_block(std::int64_t count, std::int64_t elements_per_block, const Run& run) {
    const std::int64_t block = (count - 1) / elements_per_block;
    emulation::first_block = static_cast<unsigned>(block);
    run(block * elements_per_block);
    emulation::first_block = 0;
}

template <typename Scalar>
void test_far_elements() {
    const auto& kernels = on_cpu().kernels<Scalar>();
    in_last_block(far_count, cuda::elements_per_block<Scalar>, [&](std::int64_t from) {
        const std::int64_t count = far_count - from;
        FarEnd<std::uint8_t> x(random_pixels(count, 8), far_count);
        FarEnd<Scalar> h(random_places<Scalar>(count, false), far_count), y(random_values<Scalar>(count, 1), far_count);
        cuda::dequantize(cuda::Pixels<Scalar>{x.beginning, h.beginning, 8}, y.beginning, far_count, nullptr);
        Guarded<Scalar> expected(count);
        kernels.dequantize(x.guarded.data(), h.guarded.data(), expected.data(), count, 8);
        check_same(y.guarded.values(), expected.values(), describe<Scalar>("dequantize, far"));
    });
    // A chunk of noise has as many elements as four threads.
    in_last_block(far_count, chunk_size<Scalar> * cuda::chunks_per_block, [&](std::int64_t from) {
        const std::int64_t count = far_count - from;
        FarEnd<Scalar> out(random_values<Scalar>(count, 1), far_count);
        cuda::normal(out.beginning, far_count, {1, 2, 3, 0}, nullptr);
        Guarded<Scalar> expected(count);
        kernels.normal(expected.data(), count, {1, 2, 3, from});
        check_same(out.guarded.values(), expected.values(), describe<Scalar>("normal, far"));
    });
}

template <typename Scalar>
void test_far_gradient(std::int64_t dimension) {
    const std::int64_t rows = far_count / dimension, count = rows * dimension;
    in_last_block(count, cuda::elements_per_block<Scalar>, [&](std::int64_t from) {
        const std::int64_t there = count - from, rows_there = rows - from / dimension;
        FarEnd<Scalar> x(random_values<Scalar>(there, 1), count), mean(random_values<Scalar>(there, 2), count);
        FarEnd<Scalar> grad(random_values<Scalar>(rows_there, 3), rows);
        FarEnd<double> squared_distance(square_of(random_values<double>(rows_there, 4)), rows);
        FarEnd<Scalar> got(random_values<Scalar>(there, 5), count), expected(random_values<Scalar>(there, 6), count);
        const cpu::LikelihoodGradient<Scalar> batch = {grad.beginning,     x.beginning,
                                                       mean.beginning,     squared_distance.beginning,
                                                       dimension,          make_marginal_gaussian(priors[0], dimension),
                                                       expected.beginning, nullptr};
        on_cpu().kernels<Scalar>().likelihood_gradients(batch, from, count);
        const Shape shape = {rows, dimension, 0, false};
        cuda::marginal_gaussian_log_prob_backward(
            gradient_arguments<Scalar>(batch, shape, priors[0], got.beginning, nullptr), nullptr);
        check_same(got.guarded.values(), expected.guarded.values(), describe<Scalar>("gradient, far", dimension));
    });
}

template <typename Param>
void test_far_step(const NamedSettings& named) {
    using Scalar = Compute<Param>;
    in_last_block(far_count, chunk_size<Scalar> * cuda::chunks_per_block, [&](std::int64_t from) {
        const std::int64_t count = far_count - from;
        const std::vector<Param> params = random_values<Param>(count, 1);
        const std::vector<Scalar> states = square_of(random_values<Scalar>(max_states * count, 2));
        FarEnd<Param> param(params, far_count), grad(random_values<Param>(count, 3), far_count);
        std::vector<FarEnd<Scalar>> far_states;
        States<Scalar*> beginnings = {};
        for (int k = 0; k < max_states; ++k) {
            far_states.emplace_back(std::vector(&states[k * count], &states[k * count] + count), far_count);
            beginnings.of[k] = far_states[k].beginning;
        }
        cuda::langevin_step<Param>(named.kind, {{param.beginning, grad.beginning, beginnings, far_count, 6, {0}}}, 4, 5,
                                   {}, named.settings, nullptr);
        Guarded<Param> expected(params);
        Guarded<Scalar> expected_states(states);
        on_cpu().step_kernels<Param>().of(named.kind)(expected.data(), grad.guarded.data(),
                                                      states_at(expected_states.data(), count, 0), {4, 5, 6, {from}}, 0,
                                                      count, named.settings);
        check_same(widened(param.guarded.values()), widened(expected.values()), describe<Param>(named.name) + ", far");
        std::vector<Scalar> got_states;
        for (const FarEnd<Scalar>& state : far_states) append(got_states, state.guarded.values());
        check_same(got_states, expected_states.values(), describe<Param>(named.name) + ", far: states");
    });
}

template <typename Scalar>
void test_all_but_steps() {
    test_normals<Scalar>();
    test_latents<Scalar>();
    test_likelihoods<Scalar>();
    test_dequantizations<Scalar>();
    test_far_elements<Scalar>();
    for (const std::int64_t dimension : {std::int64_t{1}, std::int64_t{3}, std::int64_t{784}, far_count / 3}) {
        test_far_gradient<Scalar>(dimension);
    }
}

template <typename... Params>
void test_all_steps() {
    (test_steps<Params>(), ...);
    for (const NamedSettings& named : {step_to_test("psgld, adapting, noisy"), step_to_test("sghmc, noisy")})
        (test_far_step<Params>(named), ...);
}

}  // namespace

int main() {
    test_all_but_steps<float>();
    test_all_but_steps<double>();
    test_all_steps<float, double, BFloat16, Half>();
    return summary("test_cuda_kernels");
}
