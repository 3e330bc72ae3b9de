#pragma once

// For passes over memory that PyTorch makes several times, or slowly, where the channels of a pixel lie beside each other.
//
// A tensor is [rows, C]: a row is a pixel or voxel with its C channels. Types of the rows: 0 float32, 1 bfloat16 (with
// float32 parameters), 2 float64. Sums over rows are taken in blocks in the parameters' type, and across blocks in
// float64; they depend on the number of threads, but not on which thread is faster.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using Index = int64_t;
#ifdef __AVX512F__
constexpr int LANES = 16;  // of a vector; what is left of the channels goes one by one
#else
constexpr int LANES = 8;
#endif
constexpr int BLOCK = 4096;  // elements that the first cache holds, with what they are combined with

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

struct Bfloat16 {
    uint16_t bits;
};

template <typename T> struct Types;
template <> struct Types<float> { using Param = float; using Vector = Floats; };
template <> struct Types<Bfloat16> { using Param = float; using Vector = Floats; };
template <> struct Types<double> { using Param = double; using Vector = double; };

template <typename V, typename T> inline V load(const T* from) {
    V out;
    std::memcpy(&out, from, sizeof(V));
    return out;
}

template <typename V, typename T> inline void store(T* to, V value) { std::memcpy(to, &value, sizeof(V)); }

template <> inline Floats load<Floats, Bfloat16>(const Bfloat16* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof(halves));
    return (Floats)(__builtin_convertvector(halves, Bits) << 16);
}

template <> inline void store<Floats, Bfloat16>(Bfloat16* to, Floats value) {
    const Bits bits = (Bits)value;
    const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
    const Bits quiet = (bits >> 16) | 0x40;
    const Halves halves = __builtin_convertvector((Bits)(value == value ? (Ints)rounded : (Ints)quiet), Halves);
    std::memcpy(to, &halves, sizeof(halves));
}

template <> inline float load<float, Bfloat16>(const Bfloat16* from) {
    const uint32_t bits = (uint32_t)from->bits << 16;
    return load<float>(&bits);
}

template <> inline void store<float, Bfloat16>(Bfloat16* to, float value) {
    const uint32_t bits = load<uint32_t>(&value);
    const bool is_number = value == value;
    to->bits = is_number ? (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 : (bits >> 16) | 0x40;
}

// Calls body(channel, zeros) for all channels, a vector of them at a time and then one by one.
template <typename T, typename Body> inline void for_channels(Index channels, Body body) {
    using Vector = typename Types<T>::Vector;
    constexpr Index step = sizeof(Vector) / sizeof(typename Types<T>::Param);
    Index channel = 0;
    for (; channel + step <= channels; channel += step) body(channel, Vector{});
    for (; channel < channels; ++channel) body(channel, typename Types<T>::Param{});
}

// Calls body(first, last, thread) on each thread's share of the blocks of rows.
template <typename Body> void for_blocks(Index rows, Index block, int threads, Body body) {
    const Index num_blocks = (rows + block - 1) / block;
    threads = (int)std::max<Index>(1, std::min<Index>(threads, num_blocks / 4));
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int thread = 0; thread < threads; ++thread) {
        const Index first = num_blocks * thread / threads * block;
        body(first, std::min(rows, num_blocks * (thread + 1) / threads * block), thread);
    }
}

Index rows_of_block(Index channels) { return std::max<Index>(16, BLOCK / channels); }

template <typename Body> void for_type(int type, Body body) {
    if (type == 0) return body(float{});
    if (type == 1) return body(Bfloat16{});
    body(double{});
}

}  // namespace
