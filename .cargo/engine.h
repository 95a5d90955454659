/* What every C and C++ file of the engine begins with; see engine.cmake. */

/* In Cargo's dev profile it is told to log every token that it considers. */
#undef WHISPER_DEBUG

/* ggml computes the alignment behind word times on a backend that nobody tells how many threads to use, so it takes
 * its default, four that wait for each other busily. Where every core has a worker, those take turns with everything
 * else: 18 % of the time of 8 live streams on 2 cores. whisper.cpp names the number everywhere else. */
#if defined(__has_include)
#if __has_include("ggml.h")
#include "ggml.h"
#undef GGML_DEFAULT_N_THREADS
#define GGML_DEFAULT_N_THREADS 1
#endif
#endif

/* An exponential that the compiler can work out eight at a time. whisper.cpp takes two of every entry of its
 * vocabulary of 51,864 for every token of every beam, all of numbers at or below zero.
 * 2^n times the polynomial of Cephes' expf for the rest: within 6e-6 of the value down to -87, and 0 below. */
#if defined(WHISPERWIRE_EXPF) && defined(__cplusplus)
#include <cmath>
#include <cstdint>
#include <cstring>
static inline float whisperwire_expf(float x) {
    const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    const float n = __builtin_floorf(clamped * 1.44269504088896341f + 0.5f);
    const float r = clamped - n * 0.693147180559945309f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return x < -87.0f ? 0.0f : p * power;
}
#define expf whisperwire_expf
#endif
