// Depthwise convolutions with three taps along one axis, and their gradients.

#include "rows.hpp"

namespace {

// Three taps, `dilation` apart, along the middle axis of [outer, length, inner, C], a filter for each channel; zeros
// beyond the ends. taps: [3, C].
template <typename T, typename P> void taps_forward(
    const T* x, Index outer, Index length, Index inner, Index channels, Index dilation, const P* taps, T* out,
    int threads) {
    const Index size = inner * channels;
    const std::vector<T> nothing(size);
    for_blocks(outer * length, std::max<Index>(1, BLOCK / size), threads, [&](Index first, Index last, int) {
        for (Index line = first; line < last; ++line) {
            const Index place = line % length;
            const T* here = x + line * size;
            const T* before = place >= dilation ? here - dilation * size : nothing.data();
            const T* after = place + dilation < length ? here + dilation * size : nothing.data();
            for (Index start = 0; start < size; start += channels)
                for_channels<T>(channels, [&](Index channel, auto zeros) {
                    using V = decltype(zeros);
                    const Index at = start + channel;
                    V sum = load<V>(before + at) * load<V>(taps + channel);
                    sum += load<V>(here + at) * load<V>(taps + channels + channel);
                    sum += load<V>(after + at) * load<V>(taps + 2 * channels + channel);
                    store(out + line * size + at, sum);
                });
        }
    });
}

template <typename T, typename P> void taps_gradient(
    const T* x, const T* grad, Index outer, Index length, Index inner, Index channels, Index dilation, P* grad_taps,
    int threads) {
    const Index size = inner * channels, block = std::max<Index>(1, BLOCK / size);
    const std::vector<T> nothing(size);
    std::vector<double> sums(threads * 3 * channels);
    for_blocks(outer * length, block, threads, [&](Index first, Index last, int thread) {
        double* sum = &sums[thread * 3 * channels];
        for (Index begin = first; begin < last; begin += block)
            for_channels<T>(channels, [&](Index channel, auto zeros) {
                using V = decltype(zeros);
                V parts[3] = {zeros, zeros, zeros};
                for (Index line = begin; line < std::min(last, begin + block); ++line) {
                    const Index place = line % length;
                    const T* here = x + line * size;
                    const T* before = place >= dilation ? here - dilation * size : nothing.data();
                    const T* after = place + dilation < length ? here + dilation * size : nothing.data();
                    for (Index at = channel; at < size; at += channels) {
                        const V value = load<V>(grad + line * size + at);
                        parts[0] += value * load<V>(before + at);
                        parts[1] += value * load<V>(here + at);
                        parts[2] += value * load<V>(after + at);
                    }
                }
                for (int part = 0; part < 3; ++part) {
                    P values[sizeof(V) / sizeof(P)];
                    store(values, parts[part]);
                    for (Index lane = 0; lane < (Index)(sizeof(V) / sizeof(P)); ++lane)
                        sum[part * channels + channel + lane] += values[lane];
                }
            });
    });
    for (Index at = 0; at < 3 * channels; ++at) {
        double total = 0;
        for (int thread = 0; thread < threads; ++thread) total += sums[thread * 3 * channels + at];
        grad_taps[at] = total;
    }
}

}  // namespace

extern "C" {

void taps_conv(
    int type, const void* x, Index outer, Index length, Index inner, Index channels, Index dilation, const void* taps,
    void* out, int threads) {
    for_type(type, [&](auto kind) {
        using T = decltype(kind);
        using P = typename Types<T>::Param;
        taps_forward((const T*)x, outer, length, inner, channels, dilation, (const P*)taps, (T*)out, threads);
    });
}

void taps_conv_gradient(
    int type, const void* x, const void* grad, Index outer, Index length, Index inner, Index channels, Index dilation,
    void* grad_taps, int threads) {
    for_type(type, [&](auto kind) {
        using T = decltype(kind);
        using P = typename Types<T>::Param;
        taps_gradient(
            (const T*)x, (const T*)grad, outer, length, inner, channels, dilation, (P*)grad_taps, threads);
    });
}
}
