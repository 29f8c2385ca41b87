#include "../math/dequantization.h"
#include "elements.h"
#include "kernels.h"

namespace ald_ext::cuda {
namespace {

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    dequantize_kernel(Pixels<Scalar> pixels, Scalar* y, std::int64_t count) {
    const auto elements = elementwise_elements<Scalar>(count);
    if (elements.none_inside()) return;
    const auto x = elements.load(pixels.x);
    auto values = elements.load(pixels.h);
    const Scalar largest = largest_pixel<Scalar>(pixels.bits);
#pragma unroll
    for (int e = 0; e < elements.size; ++e) {
        values[e] = dequantize_pixel(static_cast<Scalar>(x[e]), values[e], largest);
    }
    elements.store(y, values);
}

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    dequantize_backward_kernel(const Scalar* grad, Pixels<Scalar> pixels, Scalar* grad_h, std::int64_t count) {
    const auto elements = elementwise_elements<Scalar>(count);
    if (elements.none_inside()) return;
    const auto upstream = elements.load(grad);
    const auto x = elements.load(pixels.x);
    auto values = elements.load(pixels.h);
    const Scalar largest = largest_pixel<Scalar>(pixels.bits);
#pragma unroll
    for (int e = 0; e < elements.size; ++e) {
        values[e] = upstream[e] * dequantize_pixel_gradient(static_cast<Scalar>(x[e]), values[e], largest);
    }
    elements.store(grad_h, values);
}

template <typename Scalar>
__global__ void __launch_bounds__(threads_per_block)
    quantize_kernel(const Scalar* y, std::uint8_t* x, std::int64_t count, int bits) {
    const auto elements = elementwise_elements<Scalar>(count);
    if (elements.none_inside()) return;
    const auto values = elements.load(y);
    Values<std::uint8_t, elementwise_quads<Scalar>> pixels;
#pragma unroll
    for (int e = 0; e < elements.size; ++e) pixels[e] = quantize_pixel(values[e], largest_pixel<Scalar>(bits));
    elements.store(x, pixels);
}

template <typename Scalar>
std::int64_t elementwise_blocks(std::int64_t count) {
    return divide_up(count, elements_per_block<Scalar>);
}

}  // namespace

template <typename Scalar>
void dequantize(const Pixels<Scalar>& pixels, Scalar* y, std::int64_t count, cudaStream_t stream) {
    launch("dequantize", dequantize_kernel<Scalar>, elementwise_blocks<Scalar>(count), stream, pixels, y, count);
}

template <typename Scalar>
void dequantize_backward(const Scalar* grad, const Pixels<Scalar>& pixels, Scalar* grad_h, std::int64_t count,
                         cudaStream_t stream) {
    launch("dequantize_backward", dequantize_backward_kernel<Scalar>, elementwise_blocks<Scalar>(count), stream, grad,
           pixels, grad_h, count);
}

template <typename Scalar>
void quantize(const Scalar* y, std::uint8_t* x, std::int64_t count, int bits, cudaStream_t stream) {
    launch("quantize", quantize_kernel<Scalar>, elementwise_blocks<Scalar>(count), stream, y, x, count, bits);
}

#define ALD_EXT_INSTANTIATE(Scalar)                                                                        \
    template void dequantize<Scalar>(const Pixels<Scalar>&, Scalar*, std::int64_t, cudaStream_t);          \
    template void dequantize_backward<Scalar>(const Scalar*, const Pixels<Scalar>&, Scalar*, std::int64_t, \
                                              cudaStream_t);                                               \
    template void quantize<Scalar>(const Scalar*, std::uint8_t*, std::int64_t, int, cudaStream_t);

ALD_EXT_INSTANTIATE(float)
ALD_EXT_INSTANTIATE(double)

#undef ALD_EXT_INSTANTIATE

}  // namespace ald_ext::cuda
