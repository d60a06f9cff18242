// What this CPU sustains per second in registers, on all threads at once: the rates of the floor in bench_rw.py.
//
//   c++ -O3 -march=native -ffp-contract=fast -std=c++17 -pthread peak.cpp -o peak && ./peak THREADS
//
// Prints "name operations-per-second" lines: fma (float32, two operations for each multiply-add), exp (float32
// exponentials with a relative error below 1e-6), and, if the CPU has them, dot_bf16 (AVX-512) and tiles_bf16 (AMX):
// bfloat16 products summed in float32.
//
// Accumulators are local variables of the function that holds the loop. If a lambda captured them by reference, they
// would be stored at each iteration, which halves the rate.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / 4;
typedef float Floats __attribute__((vector_size(kBytes)));
typedef int Ints __attribute__((vector_size(kBytes)));

// Independent chains of multiply-adds or of bfloat16 dots. Two units need 2 x 4 chains at a latency of 4, which is that
// of multiply-adds, and 12 at a latency of 6: on Zen, dots reach 0.7 of their rate with 8 chains, all of it with 10,
// and no more with 20. 12 accumulators and two operands fit 16 registers. An exponential is a chain by itself; 4 of
// them overlap with those of the next round.
constexpr int kChains = 12;

volatile float sink;

// Tells the CPU that the thread waits in a loop.
void spin_pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <typename Vector>
void consume(const Vector& x) {
  float first;
  std::memcpy(&first, &x, sizeof first);
  sink = first;
}

// Returns the number of operations in so many rounds, as the other functions of rounds do.
double fma_rounds(long rounds) {
  Floats a[kChains], x = Floats{} + 0.5f + sink * 0, y = Floats{} + 0.25f + sink * 0;
  for (int c = 0; c < kChains; ++c) a[c] = Floats{} + float(c);
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) a[c] = a[c] * x + y;
  }
  for (int c = 1; c < kChains; ++c) a[0] += a[c];
  consume(a[0]);
  return 2.0 * kLanes * kChains * rounds;
}

// exp by 2^n e^r with |r| <= log(2) / 2, for arguments whose result is normal.
inline Floats exp_vector(Floats x) {
  const Floats round = Floats{} + 0x1.8p23f;  // adding it rounds to an integer, in the low bits of the mantissa
  const Floats shifted = x * 1.44269504f + round;
  const Floats n = shifted - round;
  const Floats r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  Floats p = Floats{} + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(p) + (reinterpret_cast<Ints>(shifted) << 23));
}

double exp_rounds(long rounds) {
  constexpr int chains = 4;
  Floats sum[chains] = {}, x[chains];
  for (int c = 0; c < chains; ++c) x[c] = Floats{} - float(c) + sink * 0;
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < chains; ++c) {
      sum[c] += exp_vector(x[c]);
      x[c] -= 1e-7f;
    }
  }
  for (int c = 1; c < chains; ++c) sum[0] += sum[c];
  consume(sum[0]);
  return 1.0 * kLanes * chains * rounds;
}

bool exp_is_right() {
  for (float x = -80; x < 80; x += 0.37f) {
    const Floats e = exp_vector(Floats{} + x);
    if (std::abs(e[0] / std::exp(double(x)) - 1) > 1e-6) return false;
  }
  return true;
}

#ifdef __AVX512BF16__
double dot_rounds(long rounds) {
  __m512 a[kChains];
  const __m512bh x = (__m512bh)_mm512_set1_epi16(short(0x3f00 + int(sink) * 0)), y = x;
  for (int c = 0; c < kChains; ++c) a[c] = _mm512_set1_ps(float(c));
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) a[c] = _mm512_dpbf16_ps(a[c], x, y);
  }
  for (int c = 1; c < kChains; ++c) a[0] = _mm512_add_ps(a[0], a[c]);
  consume(a[0]);
  return 4.0 * 16 * kChains * rounds;
}
#endif

#ifdef __AMX_BF16__
bool request_tiles() { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18) == 0; }

double tile_rounds(long rounds) {
  struct alignas(64) {
    unsigned char palette = 1, start = 0, reserved[14] = {};
    unsigned short columns[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  // Not by _tile_loadconfig: GCC 12 drops most of a configuration that only this intrinsic reads
  // (findings/gcc-tile-configuration.sh).
  asm volatile("ldtilecfg %0" ::"m"(config));
  // Six accumulators: a product is issued every 16 cycles and takes 52, so four would be enough. Two tiles hold
  // operands.
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (long r = 0; r < rounds; ++r) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_release();
  return 6.0 * 2 * 16 * 16 * 32 * rounds;
}
#endif

// Prints the sum over threads of the best rate of each in half a second. All threads compute at the same time. The best
// rate leaves out the time that other programs take.
void measure(const char* name, double (*rounds_of)(long), int threads) {
  using clock = std::chrono::steady_clock;
  long rounds = 1000;
  for (double seconds = 0; seconds < 0.005; rounds *= 2) {
    const auto start = clock::now();
    rounds_of(rounds);
    seconds = std::chrono::duration<double>(clock::now() - start).count();
  }
  std::vector<double> best(threads);
  const auto begin = clock::now();
  while (clock::now() - begin < std::chrono::milliseconds(500)) {
    std::atomic<int> waiting{threads};
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; ++t)
      workers.emplace_back([&, t] {
        --waiting;
        while (waiting > 0) spin_pause();
        const auto start = clock::now();
        const double done = rounds_of(rounds);
        best[t] = std::max(best[t], done / std::chrono::duration<double>(clock::now() - start).count());
      });
    for (auto& worker : workers) worker.join();
  }
  double total = 0;
  for (double rate : best) total += rate;
  std::printf("%s %.6g\n", name, total);
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  if (threads < 1 || !exp_is_right()) return 1;
  measure("fma", fma_rounds, threads);
  measure("exp", exp_rounds, threads);
#ifdef __AVX512BF16__
  measure("dot_bf16", dot_rounds, threads);
#endif
#ifdef __AMX_BF16__
  if (request_tiles()) measure("tiles_bf16", tile_rounds, threads);
#endif
  return 0;
}
