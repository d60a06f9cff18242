// Checks the compiled kernels without Python and torch, so that sanitizers and valgrind see nothing else. Every
// instruction set that the machine has is compared, forward and backward, with plain loops in double. 1, 2 and 5
// threads, 3 for 6 images, and 12 for larger images, must give the same bits.
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

#define DIFNET_ISA portable
#include "../../csrc/passes/exponentials.h"
#include "../../csrc/products/vector_unit.h"

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

// The strides of the inputs.
enum class Layout { contiguous, transposed, sliced, one_image, constant };
constexpr int kLayouts = 5;

// Nodes whose bias is -inf: none; some, in every image but the first; or these and all nodes of the last image, whose
// results are NaN.
enum class Masked { none, some, image };

// Sizes of the exponents, by how they are kept in range (check_row_max): (i, j) and (j, i) share an exponential; a
// row's maximum is bounded by the node's own score, or by that with the node of the largest bias; or it is searched.
struct Range {
  double spread;  // standard deviation of the node bias; 0 is no bias
  double length;  // of a row of features
};
constexpr Range unbiased{0, 2}, shared{1, 2}, bounded_by_itself{1, 11}, bounded_by_bias{200, 2}, searched{1, 20};
constexpr Range ranges[] = {shared, bounded_by_itself, bounded_by_bias, searched};

struct Case {
  Sizes sizes;
  Type type;  // of the features
  Precision precision;
  Range range;
  double allowed;  // error
  Masked masked = Masked::none;
  int layout = -1;  // of the first input; each input has the layout after that of the one before. -1: all contiguous
  bool one_by_one = false;  // each gradient is also computed alone
};

enum Result { new_state, grad_feature, grad_state, grad_seed, grad_bias, grad_mu, grad_beta, kResults };

struct Results {
  std::vector<double> values[kResults];  // empty if not wanted
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

// A strided array (B, N, columns) of normal numbers. Its memory ends with its last number.
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
    // NaN between the numbers.
    data_.assign((last + 1) * bytes(type), '\xff');
    array_.data = data_.data() + start_ * bytes(type);
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    for (int64_t n = 0; n < batch * nodes * columns; ++n) set(n, scale * normal(generator));
  }
  Numbers(const Numbers&) = delete;

  const Array& array() const { return array_; }
  Type type() const { return array_.type; }
  // Number n in the order of a contiguous array.
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
        feature(make(c, 0, c.sizes.width, c.type, c.range.length / std::sqrt(c.sizes.width))),
        state(make(c, 1, c.sizes.classes, value_type, 1)),
        seed(make(c, 2, c.sizes.classes, value_type, 1)),
        grad(make(c, 3, c.sizes.classes, value_type, 1)),
        bias(make(c, 4, 1, value_type, c.range.spread)) {
    const int64_t batch = c.sizes.batch, n = c.sizes.nodes;
    // Biases are far below zero: a 0 that stood for padding by mistake would be large, at a spread of 200 infinite.
    for (int64_t i = 0; c.layout < 0 && i < batch * n; ++i) bias.set(i, bias[i] - 4 * c.range.spread);
    if (c.masked == Masked::none) return;
    for (int64_t b = 1; b < batch; ++b)
      for (int64_t i = 0; i < n; ++i)
        // Also both ends: they are in different blocks, or the first and the last lane of a vector.
        if (i % 7 == 0 || i == n - 1 || (c.masked == Masked::image && b == batch - 1)) bias.set(b * n + i, -INFINITY);
  }

 private:
  static Numbers make(const Case& c, int which, int64_t columns, Type type, double scale) {
    const Layout layout = c.layout < 0 ? Layout::contiguous : static_cast<Layout>((c.layout + which) % kLayouts);
    return Numbers(c.sizes.batch, c.sizes.nodes, columns, type, layout, scale, 1 + which);
  }
};

constexpr double kMu = 0.625, kBeta = 0.75;

// The results whose bits are set in `wanted`, of the kernels.
Results run_kernels(
    const Kernels& kernels, const Case& c, const Inputs& in, const Pool& threads, unsigned wanted = kAll) {
  const Sizes& s = c.sizes;
  const int64_t n = s.batch * s.nodes, item = static_cast<int64_t>(bytes(in.value_type));
  const int64_t per_class = n * s.classes * item, per_feature = n * s.width * static_cast<int64_t>(bytes(c.type));
  // Of the exact length, so that sanitizers see a write beyond it, and NaN until written.
  const auto memory = [](int64_t size) { return std::vector<char>(size, '\xff'); };
  std::vector<char> found[] = {memory(per_class), memory(per_feature), memory(per_class), memory(per_class),
                               memory(n * item),  memory(8),           memory(8)};
  std::vector<char> z = memory(per_class), row_sum = memory(n * item);
  const auto output = [&](Result r) { return wanted >> r & 1 ? found[r].data() : nullptr; };

  Forward forward;
  forward.sizes = s;
  forward.feature = in.feature.array();
  forward.state = in.state.array();
  forward.seed = in.seed.array();
  if (c.range.spread != 0) forward.node_bias = in.bias.array();
  forward.mu = kMu;
  forward.beta = kBeta;
  forward.precision = c.precision;
  forward.new_state = found[new_state].data();
  forward.z = z.data();
  forward.row_sum = row_sum.data();
  forward.pool = threads;
  kernels.forward(forward);

  Backward backward;
  backward.sizes = s;
  backward.grad = in.grad.array();
  backward.feature = forward.feature;
  backward.state = forward.state;
  backward.seed = forward.seed;
  backward.z = {z.data(), in.value_type, {s.nodes * s.classes, s.classes, 1}};
  backward.row_sum = {row_sum.data(), in.value_type, {s.nodes, 1, 0}};
  backward.node_bias = forward.node_bias;
  backward.mu = kMu;
  backward.beta = kBeta;
  backward.precision = c.precision;
  backward.grad_feature = output(grad_feature);
  backward.grad_state = output(grad_state);
  backward.grad_seed = output(grad_seed);
  backward.grad_node_bias = output(grad_bias);
  backward.grad_mu = reinterpret_cast<double*>(output(grad_mu));
  backward.grad_beta = reinterpret_cast<double*>(output(grad_beta));
  backward.pool = threads;
  kernels.backward(backward);

  Results results;
  for (int r = 0; r < kResults; ++r) {
    const Type type = r == grad_feature ? c.type : r < grad_mu ? in.value_type : Type::float64;
    if (wanted >> r & 1)
      for (size_t at = 0; at < found[r].size(); at += bytes(type))
        results.values[r].push_back(read(found[r].data() + at, type));
  }
  return results;
}

// The same by plain loops, (1) to (11) of docs/math.md.
Results run_loops(const Case& c, const Inputs& in) {
  const int64_t n = c.sizes.nodes, d = c.sizes.width, k = c.sizes.classes, batch = c.sizes.batch;
  const auto doubles = [](const Numbers& numbers, int64_t count) {
    std::vector<double> values(count);
    for (int64_t at = 0; at < count; ++at) values[at] = numbers[at];
    return values;
  };
  const std::vector<double> feature = doubles(in.feature, batch * n * d), state = doubles(in.state, batch * n * k);
  const std::vector<double> seed = doubles(in.seed, batch * n * k), grad = doubles(in.grad, batch * n * k);
  const std::vector<double> bias = c.range.spread == 0 ? std::vector<double>(batch * n) : doubles(in.bias, batch * n);
  Results r;
  for (int which : {new_state, grad_state, grad_seed}) r.values[which].resize(batch * n * k);
  r.values[grad_feature].resize(batch * n * d);
  r.values[grad_bias].resize(batch * n);
  r.values[grad_mu].resize(1);
  r.values[grad_beta].resize(1);
  for (int64_t b = 0; b < batch; ++b) {
    const double *f = &feature[b * n * d], *y = &state[b * n * k], *s = &seed[b * n * k], *g = &grad[b * n * k];
    double *to_state = &r.values[grad_state][b * n * k], *to_feature = &r.values[grad_feature][b * n * d];
    std::vector<double> p(n * n), ds(n * n);
    for (int64_t i = 0; i < n; ++i) {
      double row_max = -INFINITY, sum = 0;
      for (int64_t j = 0; j < n; ++j) {
        double score = bias[b * n + j];
        for (int64_t m = 0; m < d; ++m) score += f[i * d + m] * f[j * d + m];  // (1)
        p[i * n + j] = score;
        row_max = std::max(row_max, score);
      }
      for (int64_t j = 0; j < n; ++j) sum += p[i * n + j] = std::exp(p[i * n + j] - row_max);
      for (int64_t j = 0; j < n; ++j) p[i * n + j] /= sum;  // (2)
    }
    for (int64_t i = 0; i < n; ++i) {
      double delta = 0;
      for (int64_t m = 0; m < k; ++m) {
        const int64_t at = i * k + m;
        double z = 0;
        for (int64_t j = 0; j < n; ++j) z += p[i * n + j] * y[j * k + m];                                   // (3)
        r.values[new_state][b * n * k + at] = kBeta * (kMu * z + (1 - kMu) * s[at]) + (1 - kBeta) * y[at];  // (4)
        r.values[grad_seed][b * n * k + at] = kBeta * (1 - kMu) * g[at];                                    // (5)
        to_state[at] += (1 - kBeta) * g[at];
        r.values[grad_mu][0] += kBeta * g[at] * (z - s[at]);                      // (6)
        r.values[grad_beta][0] += g[at] * (kMu * z + (1 - kMu) * s[at] - y[at]);  // (7)
        delta += kBeta * kMu * g[at] * z;
        for (int64_t j = 0; j < n; ++j) to_state[j * k + m] += p[i * n + j] * kBeta * kMu * g[at];  // (8)
      }
      for (int64_t j = 0; j < n; ++j) {
        double dot = 0;
        for (int64_t m = 0; m < k; ++m) dot += kBeta * kMu * g[i * k + m] * y[j * k + m];
        ds[i * n + j] = p[i * n + j] * (dot - delta);     // (9)
        r.values[grad_bias][b * n + j] += ds[i * n + j];  // (10)
      }
    }
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j)
        for (int64_t m = 0; m < d; ++m)  // (11)
          to_feature[i * d + m] += (ds[i * n + j] + ds[j * n + i]) * f[j * d + m];
  }
  return r;
}

// The largest error of the results that were computed, relative to the largest value of the result, or to 1, the size
// of the inputs, if that is larger. It is infinite if a number is NaN in one of the two.
double error(const Results& found, const Results& truth) {
  double worst = 0;
  for (int r = 0; r < kResults; ++r) {
    if (found.values[r].empty()) continue;
    // The gradients of mu and beta are sums of so many numbers of either sign.
    double size = r < grad_mu ? 1 : std::sqrt(static_cast<double>(truth.values[new_state].size())), largest = 0;
    for (size_t i = 0; i < truth.values[r].size(); ++i) {
      const double ours = found.values[r][i], true_value = truth.values[r][i];
      size = std::max(size, std::abs(true_value));
      if (std::isnan(ours) && std::isnan(true_value)) continue;
      const double difference = std::abs(ours - true_value);
      if (!(difference <= largest)) largest = std::isnan(difference) ? INFINITY : difference;
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
  // The types of features, the precisions of float32 ones, and the errors that are allowed.
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
  const auto add = [&](Sizes sizes, const Arithmetic& a, const Range& range) -> Case& {
    // Differences of large exponents have fewer digits.
    const bool large = range.spread > 1 || range.length > 2;
    const double allowed = a.type == Type::float32 && large ? std::max(a.allowed, 1e-4) : a.allowed;
    cases.push_back({sizes, a.type, a.precision, range, allowed});
    return cases.back();
  };
  // Sizes about those of a block and of vectors, one node, one class, many classes.
  const Sizes sizes[] = {{3, 1, 20, 5},  {3, 2, 3, 1},     {3, 63, 20, 5},  {1, 95, 33, 11},
                         {1, 96, 1, 65}, {1, 97, 64, 21},  {1, 97, 90, 70}, {1, 130, 1, 1},
                         {1, 193, 7, 2}, {1, 200, 33, 60}, {2, 390, 5, 3},  {1, 500, 2, 1}};
  for (const Sizes& s : sizes)
    for (const Arithmetic& a : every)
      for (const Range& range : ranges)
        // Rounding long rows of features to bfloat16 terms changes their scores by whole numbers.
        if (a.precision == Precision::highest || range.length == 2) add(s, a, range);
  for (const Arithmetic& a : every) {
    add({2, 20, 9, 3}, a, unbiased);
    add({2, 20, 9, 3}, a, shared).masked = Masked::image;
    // Enough for each of 2 or 3 threads to take images of its own. 5 threads share the blocks of all images.
    for (const Masked masked : {Masked::none, Masked::some, Masked::image})
      add({6, 97, 20, 5}, a, shared).masked = masked;
    for (const Range& range : ranges) {
      if (a.precision != Precision::highest && range.length > 2) continue;
      add({2, 97, 9, 3}, a, range).masked = Masked::some;
      if (a.precision == Precision::highest) add({1, 97, 9, 3}, a, range).one_by_one = true;
    }
  }
  // Every type with every layout; precisions read the same memory.
  for (const Arithmetic& a : {float64, float32, bfloat16, float16})
    for (int layout = 0; layout < kLayouts; ++layout)
      add({2, a.type == Type::float32 ? 97 : 20, 9, 3}, a, shared).layout = layout;
  return cases;
}

// Whether the kernels' errors are allowed ones, and results have the same bits on any number of threads.
bool check(const Kernels& kernels, const Case& c, const Inputs& inputs, const Results& truth, int max_threads) {
  const Results found = run_kernels(kernels, c, inputs, pool<1>);
  double worst = error(found, truth);
  const auto repeats_on = [&](const Pool& threads) {
    return threads.threads > max_threads || same(found, run_kernels(kernels, c, inputs, threads));
  };
  const bool repeats = repeats_on(pool<2>) && repeats_on(pool<5>) && (c.sizes.batch != 6 || repeats_on(pool<3>)) &&
                       (c.sizes.nodes < 300 || repeats_on(pool<12>));
  for (int r = c.one_by_one ? 0 : kResults; r < kResults; ++r)
    worst = std::max(worst, error(run_kernels(kernels, c, inputs, pool<1>, 1u << r), truth));
  if (worst <= c.allowed && repeats) return true;
  const Sizes& s = c.sizes;
  std::printf(
      "%s, B = %d, N = %d, d = %d, k = %d, type %d, precision %d, bias %g, length %g, masked %d, layout %d: "
      "error %.1e of %.1e, %s\n",
      kernels.name, static_cast<int>(s.batch), static_cast<int>(s.nodes), static_cast<int>(s.width),
      static_cast<int>(s.classes), static_cast<int>(c.type), static_cast<int>(c.precision), c.range.spread,
      c.range.length, static_cast<int>(c.masked), c.layout, worst, c.allowed,
      repeats ? "repeatable" : "other bits on other threads");
  return false;
}

// Whether images of each range are computed in the way that the range stands for.
bool check_row_max() {
  using Unit = VectorUnit<MulAddLanes<float, 4>>;
  bool right = true;
  for (const Range& range : ranges) {
    const Case c{{2, 97, 9, 3}, Type::float32, Precision::highest, range, 0};
    const Inputs in(c);
    const Exponentials<Unit, 1> exponentials(c.sizes, in.feature.array(), in.bias.array(), pool<1>);
    const Grid& grid = exponentials.features.grid;
    for (int64_t b = 0; b < c.sizes.batch; ++b) {
      // The distance from 0 of the rows' largest exponents, which is 0 where the maxima were searched.
      const int64_t n = c.sizes.nodes, d = c.sizes.width, first = grid.nodes_in(grid.first_block(b));
      const float* m = exponentials.features.m.data() + b * d;
      double farthest = 0;
      for (int64_t i = 0; i < n; ++i) {
        double row_max = -INFINITY;
        for (int64_t j = 0; j < n; ++j) {
          double score = in.bias[b * n + j];
          for (int64_t c = 0; c < d; ++c)
            score += in.feature[(b * n + i) * d + c] * (in.feature[(b * n + j) * d + c] - m[c]);
          row_max = std::max(row_max, score);
        }
        const int64_t block = grid.first_block(b) + (i - first + kBlockSize) / kBlockSize;
        const int64_t place = block * kBlockSize + i - grid.first_node(block);
        farthest = std::max(farthest, std::abs(kLog2e<float> * row_max + exponentials.terms.row[place]));
      }
      const ExponentOrder order = exponentials.terms.order[b];
      const ExponentOrder expected = &range == &ranges[0] ? ExponentOrder::shared : ExponentOrder::terms_first;
      const bool was_searched = farthest < 0.01;
      const bool as_expected =
          order == expected && (&range != &ranges[1] || farthest > 1) && (&range != &ranges[3] || was_searched);
      if (!as_expected)
        std::printf(
            "bias %g, length %g, image %d: order %d, largest exponents up to %g from 0\n", range.spread, range.length,
            static_cast<int>(b), static_cast<int>(order), farthest);
      right &= as_expected;
    }
  }
  return right;
}

}  // namespace

int main(int count, char** arguments) {
  const int64_t max_nodes = count > 1 ? std::atoll(arguments[1]) : 500;
  const int max_threads = count > 2 ? std::atoi(arguments[2]) : 12;
  std::vector<const Kernels*> kernels = available_kernels();
  kernels.push_back(&amx_model_kernels);
  int failed = !check_row_max(), checked = 0;
  for (const Case& c : all_cases()) {
    if (c.sizes.nodes > max_nodes) continue;
    const Inputs inputs(c);
    const Results truth = run_loops(c, inputs);
    for (const Kernels* k : kernels) {
      ++checked;
      failed += !check(*k, c, inputs, truth, max_threads);
    }
  }
  std::printf("%d checks of %d instruction sets, %d failed\n", checked, static_cast<int>(kernels.size()), failed);
  return failed != 0;
}
