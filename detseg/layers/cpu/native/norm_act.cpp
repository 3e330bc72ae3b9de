// Batch norm by the statistics of the batch, and an activation, in two passes over memory each way.

#include "rows.hpp"

namespace {

enum Activation { IDENTITY = 0, PRELU = 1 };

template <int A, typename V> inline V activate(V z, V slope) {
    if constexpr (A == PRELU) return z > 0 ? z : z * slope;
    return z;
}

// The gradient of z from that of the activation.
template <int A, typename V> inline V activation_gradient(V grad, V z, V slope) {
    if constexpr (A == PRELU) return z > 0 ? grad : grad * slope;
    return grad;
}

template <typename P> struct Norm {
    const P* weight;
    const P* bias;
    const P* slopes;  // or null
    P* mean;
    P* inverse_std;
};

template <typename P> struct Running {
    P* mean;  // or null
    P* variance;
    double momentum;
};

template <typename T, typename P> void statistics(
    const T* x, Index rows, Index channels, double eps, Norm<P> norm, Running<P> running,
    int threads) {
    const Index block = rows_of_block(channels);
    std::vector<double> means(threads * channels), squares(threads * channels);
    std::vector<Index> counts(threads);
    for_blocks(rows, block, threads, [&](Index first, Index last, int thread) {
        double* mean = &means[thread * channels];
        double* square = &squares[thread * channels];
        Index seen = 0;
        for (Index start = first; start < last; start += block) {
            const Index count = std::min(block, last - start);
            // Chan, Golub and LeVeque's pairwise update of mean and squared deviations.
            const double share = (double)count / (seen + count), product = share * seen;
            for_channels<T>(channels, [&](Index channel, auto zeros) {
                using V = decltype(zeros);
                const T* at = x + start * channels + channel;
                V sums[4] = {zeros, zeros, zeros, zeros}, deviations[4] = {zeros, zeros, zeros, zeros};
                // Four at once, because each sum waits for its last addition.
                Index row = 0;
                for (; row + 4 <= count; row += 4)
                    for (int part = 0; part < 4; ++part) sums[part] += load<V>(at + (row + part) * channels);
                for (; row < count; ++row) sums[0] += load<V>(at + row * channels);
                const V center = (sums[0] + sums[1] + sums[2] + sums[3]) / (P)count;
                const auto square_at = [&](Index row) {
                    const V difference = load<V>(at + row * channels) - center;
                    return difference * difference;
                };
                for (row = 0; row + 4 <= count; row += 4)
                    for (int part = 0; part < 4; ++part) deviations[part] += square_at(row + part);
                for (; row < count; ++row) deviations[0] += square_at(row);
                P centers[sizeof(V) / sizeof(P)], totals[sizeof(V) / sizeof(P)];
                store(centers, center);
                store(totals, deviations[0] + deviations[1] + deviations[2] + deviations[3]);
                for (Index lane = 0; lane < (Index)(sizeof(V) / sizeof(P)); ++lane) {
                    const double step = centers[lane] - mean[channel + lane];
                    square[channel + lane] += totals[lane] + step * step * product;
                    mean[channel + lane] += step * share;
                }
            });
            seen += count;
        }
        counts[thread] = seen;
    });
    for (Index channel = 0; channel < channels; ++channel) {
        double mean = 0, square = 0, seen = 0;
        for (int thread = 0; thread < threads; ++thread) {
            if (!counts[thread]) continue;
            const double share = counts[thread] / (seen + counts[thread]);
            const double step = means[thread * channels + channel] - mean;
            square += squares[thread * channels + channel] + step * step * share * seen;
            mean += step * share;
            seen += counts[thread];
        }
        norm.mean[channel] = mean;
        norm.inverse_std[channel] = 1 / std::sqrt(square / rows + eps);
        if (!running.mean) continue;
        running.mean[channel] += running.momentum * (mean - running.mean[channel]);
        running.variance[channel] += running.momentum * (square / (rows - 1) - running.variance[channel]);
    }
}

template <int A, typename T, typename P> void forward(
    const T* x, Index rows, Index channels, Norm<P> norm, T* out, int threads) {
    std::vector<P> scale(channels), shift(channels), slopes(channels);
    for (Index channel = 0; channel < channels; ++channel) {
        scale[channel] = norm.weight[channel] * norm.inverse_std[channel];
        shift[channel] = norm.bias[channel] - norm.mean[channel] * scale[channel];
        if (A == PRELU) slopes[channel] = norm.slopes[channel];
    }
    for_blocks(rows, rows_of_block(channels), threads, [&](Index first, Index last, int) {
        for (Index row = first; row < last; ++row)
            for_channels<T>(channels, [&](Index channel, auto zeros) {
                using V = decltype(zeros);
                const Index at = row * channels + channel;
                const V z = load<V>(x + at) * load<V>(&scale[channel]) + load<V>(&shift[channel]);
                store(out + at, activate<A>(z, load<V>(&slopes[channel])));
            });
    });
}

template <int A, typename T, typename P> void backward(
    const T* x, const T* grad, Index rows, Index channels, Norm<P> norm, T* grad_x, P* grad_weight, P* grad_bias,
    P* grad_slopes, int threads) {
    const Index block = rows_of_block(channels);
    std::vector<P> scale(channels), shift(channels), slopes(channels), spread(channels), pull(channels);
    for (Index channel = 0; channel < channels; ++channel) {
        scale[channel] = norm.weight[channel] * norm.inverse_std[channel];
        shift[channel] = norm.bias[channel] - norm.mean[channel] * scale[channel];
        if (A == PRELU) slopes[channel] = norm.slopes[channel];
    }
    std::vector<double> sums(threads * 3 * channels);
    for_blocks(rows, block, threads, [&](Index first, Index last, int thread) {
        double* sum = &sums[thread * 3 * channels];
        for (Index start = first; start < last; start += block) {
            const Index end = std::min(last, start + block);
            for_channels<T>(channels, [&](Index channel, auto zeros) {
                using V = decltype(zeros);
                V by_weight = zeros, by_bias = zeros, by_slope = zeros;
                const V mean = load<V>(norm.mean + channel), slope = load<V>(&slopes[channel]);
                const V factor = load<V>(&scale[channel]), term = load<V>(&shift[channel]);
                for (Index row = start; row < end; ++row) {
                    const Index at = row * channels + channel;
                    const V value = load<V>(x + at), after = load<V>(grad + at), z = value * factor + term;
                    const V before = activation_gradient<A>(after, z, slope);
                    by_bias += before;
                    by_weight += before * (value - mean);
                    if constexpr (A == PRELU) by_slope += z > 0 ? zeros : after * z;
                }
                const V parts[3] = {by_weight, by_bias, by_slope};
                for (int part = 0; part < 3; ++part) {
                    P values[sizeof(V) / sizeof(P)];
                    store(values, parts[part]);
                    for (Index lane = 0; lane < (Index)(sizeof(V) / sizeof(P)); ++lane)
                        sum[part * channels + channel + lane] += values[lane];
                }
            });
        }
    });
    for (Index channel = 0; channel < channels; ++channel) {
        double parts[3] = {0, 0, 0};
        for (int thread = 0; thread < threads; ++thread)
            for (int part = 0; part < 3; ++part) parts[part] += sums[(thread * 3 + part) * channels + channel];
        const double inverse_std = norm.inverse_std[channel];
        grad_weight[channel] = parts[0] * inverse_std;
        grad_bias[channel] = parts[1];
        if (A == PRELU) grad_slopes[channel] = parts[2];
        pull[channel] = parts[1] / rows;
        spread[channel] = parts[0] * inverse_std * inverse_std / rows;
    }
    for_blocks(rows, block, threads, [&](Index first, Index last, int) {
        for (Index row = first; row < last; ++row)
            for_channels<T>(channels, [&](Index channel, auto zeros) {
                using V = decltype(zeros);
                const Index at = row * channels + channel;
                const V value = load<V>(x + at), factor = load<V>(&scale[channel]);
                const V z = value * factor + load<V>(&shift[channel]);
                const V before = activation_gradient<A>(load<V>(grad + at), z, load<V>(&slopes[channel]));
                const V far = (value - load<V>(norm.mean + channel)) * load<V>(&spread[channel]);
                store(grad_x + at, factor * (before - load<V>(&pull[channel]) - far));
            });
    });
}

template <typename Body> void for_activation(int activation, Body body) {
    if (activation == PRELU) return body(std::integral_constant<int, PRELU>{});
    body(std::integral_constant<int, IDENTITY>{});
}

}  // namespace

extern "C" {

void norm_act_forward(
    int type, int activation, const void* x, Index rows, Index channels, const void* weight, const void* bias,
    const void* slopes, double eps, void* out, void* mean, void* inverse_std, void* running_mean,
    void* running_variance, double momentum, int threads) {
    for_type(type, [&](auto kind) {
        using T = decltype(kind);
        using P = typename Types<T>::Param;
        const Norm<P> norm{(const P*)weight, (const P*)bias, (const P*)slopes, (P*)mean, (P*)inverse_std};
        const Running<P> running{(P*)running_mean, (P*)running_variance, momentum};
        statistics((const T*)x, rows, channels, eps, norm, running, threads);
        for_activation(activation, [&](auto chosen) {
            forward<decltype(chosen)::value>((const T*)x, rows, channels, norm, (T*)out, threads);
        });
    });
}

void norm_act_backward(
    int type, int activation, const void* x, const void* grad, Index rows, Index channels, const void* weight,
    const void* bias, const void* slopes, void* mean, void* inverse_std, void* grad_x, void* grad_weight,
    void* grad_bias, void* grad_slopes, int threads) {
    for_type(type, [&](auto kind) {
        using T = decltype(kind);
        using P = typename Types<T>::Param;
        const Norm<P> norm{(const P*)weight, (const P*)bias, (const P*)slopes, (P*)mean, (P*)inverse_std};
        for_activation(activation, [&](auto chosen) {
            backward<decltype(chosen)::value>(
                (const T*)x, (const T*)grad, rows, channels, norm, (T*)grad_x, (P*)grad_weight, (P*)grad_bias,
                (P*)grad_slopes, threads);
        });
    });
}
}
