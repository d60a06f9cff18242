// The compiled kernels without Python and torch, for the tools that look at memory and threads: every instruction set
// of the machine, forward and backward, against plain loops in double, on 1, 2 and 5 threads, larger ones on 12 too,
// which must give the same bits.
//
//     check [largest number of nodes [largest number of threads]]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#define DIFNET_ISA checked
#define DIFNET_VECTOR_BYTES 16
#include "../../csrc/scores.h"

using namespace difnet;

namespace {

template <int Threads>
constexpr Pool pool{Threads, [](int64_t count, Body body, void* context) {
                      if (Threads == 1) return body(context, 0, count);
                      std::vector<std::thread> threads;
                      const int64_t share = (count + Threads - 1) / Threads;
                      for (int64_t begin = 0; begin < count; begin += share)
                        threads.emplace_back(body, context, begin, std::min(count, begin + share));
                      for (std::thread& thread : threads) thread.join();
                    }};

// How the arrays that are read lie in memory.
enum class Layout { contiguous, transposed, sliced, one_image, constant };
constexpr int kLayouts = 5;

// Nodes whose bias is -inf: none; some, in the second image and in those after it; all of the last image too, whose
// results are not numbers.
enum class Removed { none, some, image };

// Sizes of the exponents, by the way that an image takes (check_forms): (i, j) and (j, i) share an exponential; the rows'
// largest exponents are bounded by the node itself, or by the one with the largest bias; or they are looked for first.
struct Way {
  double spread, length;  // of the node bias, 0 is no bias; of a row of features
};
constexpr Way unbiased{0, 2}, shared{1, 2}, bounded{1, 11}, biased{200, 2}, searched{1, 20};
constexpr Way ways[] = {shared, bounded, biased, searched};

struct Case {
  Sizes sizes;
  Type type;  // of the features
  Precision precision;
  Way way;
  double allowed;
  Removed removed = Removed::none;
  int layout = -1;  // each array read lies in another of the layouts, the first in this one; -1: all are contiguous
  bool one_by_one = false;  // the gradients are also asked for alone
};

enum Result { new_state, of_feature, of_state, of_seed, of_bias, of_mu, of_beta, kResults };

struct Results {
  std::vector<double> values[kResults];  // empty where not asked for
};

constexpr unsigned kAll = (1 << kResults) - 1;

size_t bytes(Type type) { return type == Type::float64 ? 8 : type == Type::float32 ? 4 : 2; }

double read(const char* from, Type type) {
  double value = 0;
  float single = 0;
  uint16_t half = 0;
  if (type == Type::float64) {
    std::memcpy(&value, from, 8);
    return value;
  }
  if (type == Type::float32) {
    std::memcpy(&single, from, 4);
    return single;
  }
  std::memcpy(&half, from, 2);
  if (type == Type::bfloat16) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    std::memcpy(&single, &bits, 4);
    return single;
  }
  const int exponent = half >> 10 & 31, digits = half & 1023;
  value = exponent == 31 ? (digits != 0 ? NAN : INFINITY)
                         : std::ldexp(exponent != 0 ? digits + 1024 : digits, std::max(exponent, 1) - 25);
  return half >> 15 != 0 ? -value : value;
}

void write(char* to, Type type, double value) {
  const float single = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &single, 4);
  uint16_t half = static_cast<uint16_t>(bits >> 16);
  if (type == Type::float16) {
    const int exponent = std::max(std::ilogb(value), -14);
    const long digits = std::lrint(std::ldexp(std::abs(value), 10 - exponent));
    half = static_cast<uint16_t>((bits >> 31 << 15) + ((exponent + 14) << 10) + digits);
  }
  if (type == Type::float64)
    std::memcpy(to, &value, 8);
  else if (type == Type::float32)
    std::memcpy(to, &single, 4);
  else
    std::memcpy(to, &half, 2);
}

// A strided array (B, N, columns), whose last number is the last of its memory.
class Numbers {
 public:
  Numbers(int64_t batch, int64_t nodes, int64_t columns, Type type, Layout layout, double scale, unsigned seed)
      : nodes_(nodes), columns_(columns), array_{nullptr, type, {nodes * columns, columns, 1}} {
    auto& strides = array_.strides;
    if (layout == Layout::transposed) strides[1] = 1, strides[2] = nodes;
    if (layout == Layout::sliced) strides[0] = (nodes + 2) * (columns + 3), strides[1] = columns + 3, start_ = 1;
    if (layout == Layout::one_image || layout == Layout::constant) strides[0] = 0;
    if (layout == Layout::constant) strides[1] = strides[2] = 0;
    const int64_t last = start_ + (batch - 1) * strides[0] + (nodes - 1) * strides[1] + (columns - 1) * strides[2];
    // What lies between the numbers is not a number.
    data_.assign((last + 1) * bytes(type), '\xff');
    array_.data = data_.data() + start_ * bytes(type);
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    for (int64_t n = 0; n < batch * nodes * columns; ++n) set(n, scale * normal(generator));
  }
  Numbers(const Numbers&) = delete;

  const Array& array() const { return array_; }
  Type type() const { return array_.type; }
  // The number at a place of the contiguous array.
  double operator[](int64_t n) const { return read(data_.data() + place(n), type()); }
  void set(int64_t n, double value) { write(data_.data() + place(n), type(), value); }

 private:
  int64_t place(int64_t n) const {
    const int64_t row = n / columns_, *strides = array_.strides;
    return (start_ + row / nodes_ * strides[0] + row % nodes_ * strides[1] + n % columns_ * strides[2]) *
           static_cast<int64_t>(bytes(type()));
  }

  int64_t nodes_, columns_, start_ = 0;
  Array array_;
  std::vector<char> data_;
};

struct Inputs {
  Type value_type;
  Numbers feature, state, seed, grad, bias;

  explicit Inputs(const Case& c)
      : value_type(c.type == Type::float64 ? Type::float64 : Type::float32),
        feature(make(c, 0, c.sizes.width, c.type, c.way.length / std::sqrt(c.sizes.width))),
        state(make(c, 1, c.sizes.classes, value_type, 1)),
        seed(make(c, 2, c.sizes.classes, value_type, 1)),
        grad(make(c, 3, c.sizes.classes, value_type, 1)),
        bias(make(c, 4, 1, value_type, c.way.spread)) {
    const int64_t batch = c.sizes.batch, n = c.sizes.nodes;
    // So far below zero that 0, in the place of padding, would be large; beside 200 too large for an exponential.
    for (int64_t i = 0; c.layout < 0 && i < batch * n; ++i) bias.set(i, bias[i] - 4 * c.way.spread);
    if (c.removed == Removed::none) return;
    for (int64_t b = 1; b < batch; ++b)
      for (int64_t i = 0; i < n; ++i)
        // Both ends too, which lie in different blocks, or the first and the last number of a vector.
        if (i % 7 == 0 || i == n - 1 || (c.removed == Removed::image && b == batch - 1)) bias.set(b * n + i, -INFINITY);
  }

 private:
  static Numbers make(const Case& c, int which, int64_t columns, Type type, double scale) {
    const Layout layout = c.layout < 0 ? Layout::contiguous : static_cast<Layout>((c.layout + which) % kLayouts);
    return Numbers(c.sizes.batch, c.sizes.nodes, columns, type, layout, scale, 1 + which);
  }
};

constexpr double kMu = 0.625, kBeta = 0.75;

// The results that the bits of `asked` name.
Results by_kernels(
    const Kernels& kernels, const Case& c, const Inputs& in, const Pool& threads, unsigned asked = kAll) {
  const Sizes& s = c.sizes;
  const int64_t n = s.batch * s.nodes, item = static_cast<int64_t>(bytes(in.value_type));
  const int64_t per_class = n * s.classes * item, per_feature = n * s.width * static_cast<int64_t>(bytes(c.type));
  // Exactly as long as they must be, and not numbers until written.
  const auto room = [](int64_t size) { return std::vector<char>(size, '\xff'); };
  std::vector<char> found[] = {room(per_class), room(per_feature), room(per_class), room(per_class),
                               room(n * item),  room(8),           room(8)};
  std::vector<char> z = room(per_class), sums = room(n * item);
  const auto output = [&](Result r) { return asked >> r & 1 ? found[r].data() : nullptr; };
  const auto number = [&](Result r) { return reinterpret_cast<double*>(output(r)); };
  const Array bias = c.way.spread == 0 ? Array{} : in.bias.array();
  const Array z_array{z.data(), in.value_type, {s.nodes * s.classes, s.classes, 1}};
  const Array sums_array{sums.data(), in.value_type, {s.nodes, 1, 0}};
  kernels.forward(
      {s, in.feature.array(), in.state.array(), in.seed.array(), bias, kMu, kBeta, c.precision,
       found[new_state].data(), z.data(), sums.data(), threads});
  kernels.backward(
      {s, in.grad.array(), in.feature.array(), in.state.array(), in.seed.array(), z_array, sums_array, bias, kMu, kBeta,
       c.precision, output(of_feature), output(of_state), output(of_seed), output(of_bias), number(of_mu),
       number(of_beta), threads});
  Results results;
  for (int r = 0; r < kResults; ++r) {
    const Type type = r == of_feature ? c.type : r < of_mu ? in.value_type : Type::float64;
    if (asked >> r & 1)
      for (size_t at = 0; at < found[r].size(); at += bytes(type))
        results.values[r].push_back(read(found[r].data() + at, type));
  }
  return results;
}

// Equations (1) to (11) of docs/math.md as they stand.
Results by_loops(const Case& c, const Inputs& in) {
  const int64_t n = c.sizes.nodes, d = c.sizes.width, k = c.sizes.classes, batch = c.sizes.batch;
  const auto doubles = [](const Numbers& numbers, int64_t count) {
    std::vector<double> values(count);
    for (int64_t at = 0; at < count; ++at) values[at] = numbers[at];
    return values;
  };
  const std::vector<double> feature = doubles(in.feature, batch * n * d), state = doubles(in.state, batch * n * k);
  const std::vector<double> seed = doubles(in.seed, batch * n * k), grad = doubles(in.grad, batch * n * k);
  const std::vector<double> bias =
      c.way.spread == 0 ? std::vector<double>(batch * n) : doubles(in.bias, batch * n);
  Results r;
  for (int which : {new_state, of_state, of_seed}) r.values[which].resize(batch * n * k);
  r.values[of_feature].resize(batch * n * d);
  r.values[of_bias].resize(batch * n);
  r.values[of_mu].resize(1);
  r.values[of_beta].resize(1);
  for (int64_t b = 0; b < batch; ++b) {
    const double *f = &feature[b * n * d], *y = &state[b * n * k], *s = &seed[b * n * k], *g = &grad[b * n * k];
    double *to_state = &r.values[of_state][b * n * k], *to_feature = &r.values[of_feature][b * n * d];
    std::vector<double> p(n * n), ds(n * n);
    for (int64_t i = 0; i < n; ++i) {
      double top = -INFINITY, sum = 0;
      for (int64_t j = 0; j < n; ++j) {
        double score = bias[b * n + j];
        for (int64_t m = 0; m < d; ++m) score += f[i * d + m] * f[j * d + m];
        p[i * n + j] = score;
        top = std::max(top, score);
      }
      for (int64_t j = 0; j < n; ++j) sum += p[i * n + j] = std::exp(p[i * n + j] - top);
      for (int64_t j = 0; j < n; ++j) p[i * n + j] /= sum;
    }
    for (int64_t i = 0; i < n; ++i) {
      double delta = 0;
      for (int64_t m = 0; m < k; ++m) {
        const int64_t at = i * k + m;
        double z = 0;
        for (int64_t j = 0; j < n; ++j) z += p[i * n + j] * y[j * k + m];
        r.values[new_state][b * n * k + at] = kBeta * (kMu * z + (1 - kMu) * s[at]) + (1 - kBeta) * y[at];
        r.values[of_seed][b * n * k + at] = kBeta * (1 - kMu) * g[at];
        to_state[at] += (1 - kBeta) * g[at];
        r.values[of_mu][0] += kBeta * g[at] * (z - s[at]);
        r.values[of_beta][0] += g[at] * (kMu * z + (1 - kMu) * s[at] - y[at]);
        delta += kBeta * kMu * g[at] * z;
        for (int64_t j = 0; j < n; ++j) to_state[j * k + m] += p[i * n + j] * kBeta * kMu * g[at];
      }
      for (int64_t j = 0; j < n; ++j) {
        double dot = 0;
        for (int64_t m = 0; m < k; ++m) dot += kBeta * kMu * g[i * k + m] * y[j * k + m];
        ds[i * n + j] = p[i * n + j] * (dot - delta);
        r.values[of_bias][b * n + j] += ds[i * n + j];
      }
    }
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j)
        for (int64_t m = 0; m < d; ++m) to_feature[i * d + m] += (ds[i * n + j] + ds[j * n + i]) * f[j * d + m];
  }
  return r;
}

// Largest deviation of the results that were asked for, relative to the result's largest value or to 1, the size of the
// inputs. What is not a number must be one in neither.
double error(const Results& found, const Results& truth) {
  double worst = 0;
  for (int r = 0; r < kResults; ++r) {
    if (found.values[r].empty()) continue;
    // The gradients of mu and beta are sums of that many numbers of either sign.
    double size = r < of_mu ? 1 : std::sqrt(static_cast<double>(truth.values[new_state].size())), largest = 0;
    for (size_t i = 0; i < truth.values[r].size(); ++i) {
      const double one = found.values[r][i], other = truth.values[r][i];
      size = std::max(size, std::abs(other));
      if (std::isnan(one) && std::isnan(other)) continue;
      const double off = std::abs(one - other);
      if (!(off <= largest)) largest = std::isnan(off) ? INFINITY : off;
    }
    worst = std::max(worst, largest / size);
  }
  return worst;
}

bool same(const Results& one, const Results& two) {
  for (int r = 0; r < kResults; ++r) {
    const std::vector<double>&left = one.values[r], &right = two.values[r];
    if (std::memcmp(left.data(), right.data(), left.size() * sizeof(double)) != 0) return false;
  }
  return true;
}

std::vector<Case> all_cases() {
  // What a walk may be computed in, with the error allowed.
  struct Arithmetic {
    Type type;
    Precision precision;
    double allowed;
  };
  constexpr Arithmetic float64{Type::float64, Precision::highest, 1e-12};
  constexpr Arithmetic float32{Type::float32, Precision::highest, 1e-5};
  constexpr Arithmetic high{Type::float32, Precision::high, 1e-3}, medium{Type::float32, Precision::medium, 5e-2};
  constexpr Arithmetic bfloat16{Type::bfloat16, Precision::highest, 5e-2};
  constexpr Arithmetic float16{Type::float16, Precision::highest, 2e-3};
  constexpr Arithmetic every[] = {float64, float32, high, medium, bfloat16, float16};

  std::vector<Case> cases;
  const auto add = [&](Sizes sizes, const Arithmetic& a, const Way& way) -> Case& {
    // Large exponents leave fewer digits to their differences.
    const bool large = way.spread > 1 || way.length > 2;
    const double allowed = a.type == Type::float32 && large ? std::max(a.allowed, 1e-4) : a.allowed;
    cases.push_back({sizes, a.type, a.precision, way, allowed});
    return cases.back();
  };
  // Sizes around the edge of a block and of vectors, one node, one column, many columns.
  const Sizes sizes[] = {{3, 1, 20, 5},   {3, 2, 3, 1},   {3, 63, 20, 5},  {1, 95, 33, 11}, {1, 96, 1, 65},
                         {1, 97, 64, 21}, {1, 97, 90, 70}, {1, 130, 1, 1}, {1, 193, 7, 2},  {1, 200, 33, 60},
                         {2, 390, 5, 3}, {1, 500, 2, 1}};
  for (const Sizes& s : sizes)
    for (const Arithmetic& a : every)
      for (const Way& way : ways)
        // Rounding a long row of features moves its scores by whole numbers.
        if (a.precision == Precision::highest || way.length == 2) add(s, a, way);
  for (const Arithmetic& a : every) {
    add({2, 20, 9, 3}, a, unbiased);
    add({2, 20, 9, 3}, a, shared).removed = Removed::image;
    for (const Way& way : ways) {
      if (a.precision != Precision::highest && way.length > 2) continue;
      add({2, 97, 9, 3}, a, way).removed = Removed::some;
      if (a.precision == Precision::highest) add({1, 97, 9, 3}, a, way).one_by_one = true;
    }
  }
  // The arithmetic makes no difference to what is read.
  for (const Arithmetic& a : {float64, float32, bfloat16, float16})
    for (int layout = 0; layout < kLayouts; ++layout)
      add({2, a.type == Type::float32 ? 97 : 20, 9, 3}, a, shared).layout = layout;
  return cases;
}

// Whether the kernels' errors are those allowed, and the number of threads changes no bit.
bool check(const Kernels& kernels, const Case& c, const Inputs& inputs, const Results& truth, int max_threads) {
  const Results found = by_kernels(kernels, c, inputs, pool<1>);
  double worst = error(found, truth);
  const auto repeats_on = [&](const Pool& threads) {
    return threads.threads > max_threads || same(found, by_kernels(kernels, c, inputs, threads));
  };
  const bool repeats =
      repeats_on(pool<2>) && repeats_on(pool<5>) && (c.sizes.nodes < 300 || repeats_on(pool<12>));
  for (int r = c.one_by_one ? 0 : kResults; r < kResults; ++r)
    worst = std::max(worst, error(by_kernels(kernels, c, inputs, pool<1>, 1u << r), truth));
  if (worst <= c.allowed && repeats) return true;
  const Sizes& s = c.sizes;
  std::printf(
      "%s, B = %d, N = %d, d = %d, k = %d, type %d, precision %d, bias %g, length %g, removed %d, layout %d: "
      "error %.1e of %.1e, %s\n",
      kernels.name, static_cast<int>(s.batch), static_cast<int>(s.nodes), static_cast<int>(s.width),
      static_cast<int>(s.classes), static_cast<int>(c.type), static_cast<int>(c.precision), c.way.spread, c.way.length,
      static_cast<int>(c.removed), c.layout, worst, c.allowed, repeats ? "repeatable" : "other bits on other threads");
  return false;
}

// Images of the sizes of each way take it.
bool check_forms() {
  using A = Registers<MultiplyAdd<float, 4>>;
  using Form = Scores<A, 1>::Form;
  bool right = true;
  for (const Way& way : ways) {
    const Case c{{2, 97, 9, 3}, Type::float32, Precision::highest, way, 0};
    const Inputs in(c);
    const Scores<A, 1> scores(c.sizes, in.feature.array(), in.bias.array(), pool<1>);
    for (int64_t b = 0; b < c.sizes.batch; ++b) {
      // Where rows were searched, the largest exponent of each is 0.
      const int64_t n = c.sizes.nodes, d = c.sizes.width, first = scores.grid.nodes_in(0);
      double farthest = 0;
      for (int64_t i = 0; i < n; ++i) {
        double top = -INFINITY;
        for (int64_t j = 0; j < n; ++j) {
          double score = in.bias[b * n + j];
          for (int64_t m = 0; m < d; ++m)
            score += in.feature[(b * n + i) * d + m] * (in.feature[(b * n + j) * d + m] - scores.centre[b * d + m]);
          top = std::max(top, score);
        }
        const int64_t block = (i - first + kEdge) / kEdge;  // the first may have fewer nodes
        const int64_t place = scores.node(b, block) + i - scores.grid.first_node(block);
        farthest = std::max(farthest, std::abs(Scores<A, 1>::kLog2e * top + scores.row[place]));
      }
      const Form form = scores.form[b];
      const bool expected = &way == &ways[0]   ? form == Form::shared
                            : &way == &ways[1] ? form == Form::near && farthest > 1
                            : &way == &ways[2] ? form == Form::near
                                               : form == Form::near && farthest < 0.01;
      if (!expected)
        std::printf(
            "bias %g, length %g, image %d: form %d, largest exponents up to %g from 0\n", way.spread, way.length,
            static_cast<int>(b), static_cast<int>(form), farthest);
      right &= expected;
    }
  }
  return right;
}

}  // namespace

int main(int count, char** arguments) {
  const int64_t most = count > 1 ? std::atoll(arguments[1]) : 500;
  const int max_threads = count > 2 ? std::atoi(arguments[2]) : 12;
  std::vector<const Kernels*> kernels = available_kernels();
  kernels.push_back(&amx_model_kernels);
  int failed = !check_forms(), checked = 0;
  for (const Case& c : all_cases()) {
    if (c.sizes.nodes > most) continue;
    const Inputs inputs(c);
    const Results truth = by_loops(c, inputs);
    for (const Kernels* k : kernels) {
      ++checked;
      failed += !check(*k, c, inputs, truth, max_threads);
    }
  }
  std::printf("%d checks of %d instruction sets, %d failed\n", checked, static_cast<int>(kernels.size()), failed);
  return failed != 0;
}
