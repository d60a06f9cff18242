// The compiled kernels without Python and torch, for the tools that look at memory and threads: every instruction set
// of the machine, forward and backward, against plain loops in double, on 1, 2 and 5 threads, which must give the same
// bits.
//
//     check [largest number of nodes]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "../../csrc/walk.h"

using namespace difnet;

namespace {

template <int Threads>
constexpr Pool pool{Threads, [](int64_t count, Body body, void* context) {
                      std::vector<std::thread> threads;
                      const int64_t share = (count + Threads - 1) / Threads;
                      for (int64_t begin = 0; begin < count; begin += share)
                        threads.emplace_back(body, context, begin, std::min(count, begin + share));
                      for (std::thread& thread : threads) thread.join();
                    }};

struct Case {
  Sizes sizes;
  Type type;  // of the features
  Precision precision;
  double spread;  // of the node bias: a large one takes an exponential for (i, j) and one for (j, i)
  double allowed;
};

struct Results {
  std::vector<double> values[6];  // new state, and the gradients of feature, state, seed, node bias; mu and beta
};

double read(const std::vector<char>& data, Type type, int64_t n) {
  if (type == Type::float64) return reinterpret_cast<const double*>(data.data())[n];
  if (type == Type::float32) return reinterpret_cast<const float*>(data.data())[n];
  const uint32_t bits = static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(data.data())[n]) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

size_t bytes(Type type) { return type == Type::float64 ? 8 : type == Type::float32 ? 4 : 2; }

std::vector<char> random(int64_t count, Type type, double scale, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0, scale);
  std::vector<char> data(count * bytes(type));
  for (int64_t n = 0; n < count; ++n) {
    const double value = normal(generator);
    const float single = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &single, sizeof bits);
    const uint16_t half = static_cast<uint16_t>(bits >> 16);
    if (type == Type::float64) std::memcpy(&data[n * 8], &value, 8);
    if (type == Type::float32) std::memcpy(&data[n * 4], &single, 4);
    if (type == Type::bfloat16) std::memcpy(&data[n * 2], &half, 2);
  }
  return data;
}

struct Inputs {
  std::vector<char> feature, state, seed, grad, bias;
  Type type, value_type;

  explicit Inputs(const Case& c)
      : type(c.type), value_type(c.type == Type::float64 ? Type::float64 : Type::float32) {
    const Sizes& s = c.sizes;
    feature = random(s.batch * s.nodes * s.width, type, 2 / std::sqrt(s.width), 1);
    state = random(s.batch * s.nodes * s.classes, value_type, 1, 2);
    seed = random(s.batch * s.nodes * s.classes, value_type, 1, 3);
    grad = random(s.batch * s.nodes * s.classes, value_type, 1, 4);
    bias = random(s.batch * s.nodes, value_type, c.spread, 5);
  }
};

constexpr double kMu = 0.625, kBeta = 0.75;

Results by_kernels(const Kernels& kernels, const Case& c, const Inputs& in, const Pool& threads) {
  const Sizes& s = c.sizes;
  const int64_t n = s.batch * s.nodes, item = static_cast<int64_t>(bytes(in.value_type));
  const auto array = [&](const std::vector<char>& data, Type type, int64_t columns) {
    return Array{data.data(), type, {s.nodes * columns, columns, 1}};
  };
  std::vector<char> state(n * s.classes * item), z(state.size()), sums(n * item);
  kernels.forward(
      {s, array(in.feature, in.type, s.width), array(in.state, in.value_type, s.classes),
       array(in.seed, in.value_type, s.classes), array(in.bias, in.value_type, 1), kMu, kBeta, c.precision,
       state.data(), z.data(), sums.data(), threads});
  std::vector<char> of_feature(n * s.width * bytes(in.type)), of_state(state.size()), of_seed(state.size());
  std::vector<char> of_bias(n * item);
  double of_mu = 0, of_beta = 0;
  kernels.backward(
      {s, array(in.grad, in.value_type, s.classes), array(in.feature, in.type, s.width),
       array(in.state, in.value_type, s.classes), array(in.seed, in.value_type, s.classes),
       array(z, in.value_type, s.classes), array(sums, in.value_type, 1), array(in.bias, in.value_type, 1), kMu, kBeta,
       c.precision, of_feature.data(), of_state.data(), of_seed.data(), of_bias.data(), &of_mu, &of_beta, threads});
  Results results;
  const std::vector<char>* found[] = {&state, &of_feature, &of_state, &of_seed, &of_bias};
  for (int r = 0; r < 5; ++r) {
    const Type type = r == 1 ? in.type : in.value_type;
    for (size_t i = 0; i < found[r]->size() / bytes(type); ++i) results.values[r].push_back(read(*found[r], type, i));
  }
  results.values[5] = {of_mu, of_beta};
  return results;
}

// Equations (1) to (11) of docs/math.md as they stand.
Results by_loops(const Case& c, const Inputs& in) {
  const int64_t n = c.sizes.nodes, d = c.sizes.width, k = c.sizes.classes, batch = c.sizes.batch;
  Results r;
  for (int which : {0, 2, 3}) r.values[which].resize(batch * n * k);
  r.values[1].resize(batch * n * d);
  r.values[4].resize(batch * n);
  r.values[5].resize(2);
  for (int64_t b = 0; b < batch; ++b) {
    const auto f = [&](int64_t i, int64_t m) { return read(in.feature, in.type, (b * n + i) * d + m); };
    const auto of = [&](const std::vector<char>& data, int64_t i, int64_t m) {
      return read(data, in.value_type, (b * n + i) * k + m);
    };
    std::vector<double> p(n * n), ds(n * n);
    for (int64_t i = 0; i < n; ++i) {
      double top = -INFINITY, sum = 0;
      for (int64_t j = 0; j < n; ++j) {
        double score = read(in.bias, in.value_type, b * n + j);
        for (int64_t m = 0; m < d; ++m) score += f(i, m) * f(j, m);
        p[i * n + j] = score;
        top = std::max(top, score);
      }
      for (int64_t j = 0; j < n; ++j) sum += p[i * n + j] = std::exp(p[i * n + j] - top);
      for (int64_t j = 0; j < n; ++j) p[i * n + j] /= sum;
    }
    for (int64_t i = 0; i < n; ++i) {
      double delta = 0;
      for (int64_t m = 0; m < k; ++m) {
        double z = 0;
        for (int64_t j = 0; j < n; ++j) z += p[i * n + j] * of(in.state, j, m);
        const double y = of(in.state, i, m), s = of(in.seed, i, m), g = of(in.grad, i, m), place = (b * n + i) * k + m;
        const auto at = static_cast<size_t>(place);
        r.values[0][at] = kBeta * (kMu * z + (1 - kMu) * s) + (1 - kBeta) * y;
        r.values[3][at] = kBeta * (1 - kMu) * g;
        r.values[2][at] += (1 - kBeta) * g;
        r.values[5][0] += kBeta * g * (z - s);
        r.values[5][1] += g * (kMu * z + (1 - kMu) * s - y);
        delta += kBeta * kMu * g * z;
        for (int64_t j = 0; j < n; ++j) r.values[2][(b * n + j) * k + m] += p[i * n + j] * kBeta * kMu * g;
      }
      for (int64_t j = 0; j < n; ++j) {
        double dot = 0;
        for (int64_t m = 0; m < k; ++m) dot += kBeta * kMu * of(in.grad, i, m) * of(in.state, j, m);
        ds[i * n + j] = p[i * n + j] * (dot - delta);
        r.values[4][b * n + j] += ds[i * n + j];
      }
    }
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j)
        for (int64_t m = 0; m < d; ++m) r.values[1][(b * n + i) * d + m] += (ds[i * n + j] + ds[j * n + i]) * f(j, m);
  }
  return r;
}

// Largest deviation of any result, relative to the result's largest value or to 1, the size of the inputs.
double error(const Results& found, const Results& truth) {
  double worst = 0;
  for (int r = 0; r < 6; ++r) {
    double size = 1, largest = 0;
    for (size_t i = 0; i < truth.values[r].size(); ++i) {
      size = std::max(size, std::abs(truth.values[r][i]));
      const double off = std::abs(found.values[r][i] - truth.values[r][i]);
      if (!(off <= largest)) largest = std::isnan(off) ? INFINITY : off;
    }
    worst = std::max(worst, largest / size);
  }
  return worst;
}

bool same(const Results& one, const Results& two) {
  for (int r = 0; r < 6; ++r)
    if (one.values[r] != two.values[r]) return false;
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  const int64_t most = count > 1 ? std::atoll(arguments[1]) : 200;
  std::vector<const Kernels*> kernels = available_kernels();
  kernels.push_back(&amx_model_kernels);
  int failed = 0, checked = 0;
  for (const Sizes& sizes : {Sizes{3, 1, 20, 5}, {3, 63, 20, 5}, {2, 97, 64, 21}, {1, 130, 1, 1}, {1, 97, 90, 70}, {1, 200, 33, 60}}) {
    if (sizes.nodes > most) continue;
    const Case cases[] = {
        {sizes, Type::float64, Precision::highest, 1, 1e-12}, {sizes, Type::float64, Precision::highest, 200, 1e-12},
        {sizes, Type::float32, Precision::highest, 1, 1e-5},  {sizes, Type::float32, Precision::highest, 200, 1e-4},
        {sizes, Type::float32, Precision::high, 1, 1e-3},     {sizes, Type::bfloat16, Precision::highest, 1, 5e-2},
        {sizes, Type::bfloat16, Precision::highest, 200, 5e-2}};
    for (const Case& c : cases) {
      const Inputs inputs(c);
      const Results truth = by_loops(c, inputs);
      for (const Kernels* k : kernels) {
        const Results found = by_kernels(*k, c, inputs, pool<1>);
        const bool near = error(found, truth) <= c.allowed;
        const bool repeats =
            same(found, by_kernels(*k, c, inputs, pool<2>)) && same(found, by_kernels(*k, c, inputs, pool<5>));
        ++checked;
        if (near && repeats) continue;
        ++failed;
        std::printf(
            "%s, %d nodes, type %d, bias %g: error %.1e of %.1e, %s\n", k->name, static_cast<int>(sizes.nodes),
            static_cast<int>(c.type), c.spread, error(found, truth), c.allowed,
            repeats ? "repeatable" : "other bits on other threads");
      }
    }
  }
  std::printf("%d checks of %d instruction sets, %d failed\n", checked, static_cast<int>(kernels.size()), failed);
  return failed != 0;
}
