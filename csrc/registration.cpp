// Registers the kernels as the overloads `native` of the operators that difnet_kernels/ops.py defines. This is the only
// file that uses torch. It uses only the stable ABI, so that one binary works with every torch from 2.11 on.
#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "walk.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

difnet::Type type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return difnet::Type::float64;
    case ScalarType::Float:
      return difnet::Type::float32;
    case ScalarType::BFloat16:
      return difnet::Type::bfloat16;
    case ScalarType::Half:
      return difnet::Type::float16;
    default:
      throw std::invalid_argument("expected float64, float32, bfloat16 or float16");
  }
}

difnet::Array array_of(const Tensor& tensor) {
  difnet::Array array;
  array.data = tensor.data_ptr();
  array.type = type_of(tensor);
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) array.strides[axis] = tensor.stride(axis);
  return array;
}

difnet::Array array_of(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? array_of(*tensor) : difnet::Array{};
}

double scalar_of(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? *static_cast<const double*>(tensor.data_ptr())
                                                    : *static_cast<const float*>(tensor.data_ptr());
}

void set_scalar(const Tensor& tensor, double value) {
  if (tensor.scalar_type() == ScalarType::Double)
    *static_cast<double*>(tensor.data_ptr()) = value;
  else
    *static_cast<float*>(tensor.data_ptr()) = static_cast<float>(value);
}

// The sizes of a call. Throws std::invalid_argument if the arguments are not as difnet_kernels/ops.py describes them.
difnet::Sizes check_and_get_sizes(
    const Tensor& feature, const Tensor& state, std::initializer_list<Tensor> states,
    const std::optional<Tensor>& node_bias, std::initializer_list<Tensor> scalars) {
  const auto check = [](bool holds, const char* expected) {
    if (!holds) throw std::invalid_argument(std::string("the walk's compiled kernels: expected ") + expected);
  };
  check(feature.dim() == 3 && state.dim() == 3, "feature (B, N, d) and state (B, N, k)");
  difnet::Sizes sizes;
  sizes.batch = feature.size(0);
  sizes.nodes = feature.size(1);
  sizes.width = feature.size(2);
  sizes.classes = state.size(2);
  check(sizes.batch > 0 && sizes.nodes > 0 && sizes.width > 0 && sizes.classes > 0, "B, N, d and k of at least 1");
  const ScalarType type = type_of(feature) == difnet::Type::float64 ? ScalarType::Double : ScalarType::Float;
  for (const Tensor& tensor : states) {
    check(tensor.scalar_type() == type, "states in float64 where the feature is, in float32 elsewhere");
    check(
        tensor.dim() == 3 && tensor.size(0) == sizes.batch && tensor.size(1) == sizes.nodes &&
            tensor.size(2) == sizes.classes,
        "states, seed and gradients of one shape (B, N, k)");
  }
  if (node_bias.has_value())
    check(
        node_bias->scalar_type() == type && node_bias->dim() == 2 && node_bias->size(0) == sizes.batch &&
            node_bias->size(1) == sizes.nodes,
        "node_bias (B, N) in the states' type");
  for (const Tensor& tensor : scalars)
    check(tensor.scalar_type() == type && tensor.dim() == 0, "mu and beta without axes, in the states' type");
  return sizes;
}

difnet::Pool torch_threads() {
  difnet::Pool pool;
  pool.threads = static_cast<int>(torch::stable::get_num_threads());
  pool.run = [](int64_t count, difnet::Body body, void* context) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { body(context, begin, end); });
  };
  return pool;
}

// `name` is one of torch.get_float32_matmul_precision(), and matters to float32 features only.
difnet::Precision precision_of(const Tensor& feature, const std::string& name) {
  if (name != "highest" && name != "high" && name != "medium")
    throw std::invalid_argument("float32_precision: expected highest, high or medium, got " + name);
  if (feature.scalar_type() != ScalarType::Float || name == "highest") return difnet::Precision::highest;
  return name == "high" ? difnet::Precision::high : difnet::Precision::medium;
}

std::tuple<Tensor, Tensor, Tensor> walk_forward(
    Tensor feature, Tensor state, Tensor seed, Tensor mu, Tensor beta, std::optional<Tensor> node_bias,
    std::string float32_precision) {
  difnet::Forward call;
  call.sizes = check_and_get_sizes(feature, state, {state, seed}, node_bias, {mu, beta});
  const std::vector<int64_t> per_node{call.sizes.batch, call.sizes.nodes};
  const std::vector<int64_t> per_class{call.sizes.batch, call.sizes.nodes, call.sizes.classes};
  Tensor new_state = torch::stable::new_empty(state, per_class), z = torch::stable::new_empty(state, per_class);
  Tensor row_sum = torch::stable::new_empty(state, per_node);
  call.feature = array_of(feature);
  call.state = array_of(state);
  call.seed = array_of(seed);
  call.node_bias = array_of(node_bias);
  call.mu = scalar_of(mu);
  call.beta = scalar_of(beta);
  call.precision = precision_of(feature, float32_precision);
  call.new_state = new_state.data_ptr();
  call.z = z.data_ptr();
  call.row_sum = row_sum.data_ptr();
  call.pool = torch_threads();
  difnet::chosen_kernels().forward(call);
  return {new_state, z, row_sum};
}

// The order of output_mask and of the gradients.
enum Output { kFeature, kState, kSeed, kMu, kBeta, kNodeBias };

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> walk_backward(
    Tensor grad, Tensor feature, Tensor state, Tensor seed, Tensor z, Tensor row_sum, Tensor mu, Tensor beta,
    std::optional<Tensor> node_bias, std::string float32_precision, std::vector<bool> output_mask) {
  difnet::Backward call;
  call.sizes = check_and_get_sizes(feature, state, {grad, state, seed, z}, node_bias, {mu, beta});
  const std::vector<int64_t> per_node{call.sizes.batch, call.sizes.nodes}, empty{0}, scalar;
  const std::vector<int64_t> per_feature{call.sizes.batch, call.sizes.nodes, call.sizes.width};
  const std::vector<int64_t> per_class{call.sizes.batch, call.sizes.nodes, call.sizes.classes};
  const auto make = [&](Output output, const Tensor& like, const std::vector<int64_t>& shape) {
    return torch::stable::new_empty(like, output_mask.at(output) ? shape : empty);
  };
  const auto pointer = [&](Output output, const Tensor& tensor) {
    return output_mask.at(output) ? tensor.data_ptr() : nullptr;
  };
  Tensor grad_feature = make(kFeature, feature, per_feature);
  Tensor grad_state = make(kState, state, per_class), grad_seed = make(kSeed, state, per_class);
  Tensor grad_mu = make(kMu, state, scalar), grad_beta = make(kBeta, state, scalar);
  Tensor grad_node_bias = make(kNodeBias, state, per_node);
  double mu_value = 0, beta_value = 0;
  call.grad = array_of(grad);
  call.feature = array_of(feature);
  call.state = array_of(state);
  call.seed = array_of(seed);
  call.z = array_of(z);
  call.row_sum = array_of(row_sum);
  call.node_bias = array_of(node_bias);
  call.mu = scalar_of(mu);
  call.beta = scalar_of(beta);
  call.precision = precision_of(feature, float32_precision);
  call.grad_feature = pointer(kFeature, grad_feature);
  call.grad_state = pointer(kState, grad_state);
  call.grad_seed = pointer(kSeed, grad_seed);
  call.grad_node_bias = pointer(kNodeBias, grad_node_bias);
  call.grad_mu = &mu_value;
  call.grad_beta = &beta_value;
  call.pool = torch_threads();
  difnet::chosen_kernels().backward(call);
  if (output_mask[kMu]) set_scalar(grad_mu, mu_value);
  if (output_mask[kBeta]) set_scalar(grad_beta, beta_value);
  return {grad_feature, grad_state, grad_seed, grad_mu, grad_beta, grad_node_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(difnet_kernels, CPU, m) {
  m.impl("walk_forward.native", TORCH_BOX(&walk_forward));
  m.impl("walk_backward.native", TORCH_BOX(&walk_backward));
}

// The names of the instruction sets that can run here, the best first.
PyObject* instruction_sets(PyObject*, PyObject*) {
  const auto& kernels = difnet::available_kernels();
  PyObject* names = PyTuple_New(static_cast<Py_ssize_t>(kernels.size()));
  for (size_t n = 0; names != nullptr && n < kernels.size(); ++n)
    PyTuple_SetItem(names, static_cast<Py_ssize_t>(n), PyUnicode_FromString(kernels[n]->name));
  return names;
}

// The name of the instruction set that walks use. Raises ValueError if DIFNET_CPU_ISA names one that cannot run here.
PyObject* instruction_set(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(difnet::chosen_kernels().name);
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
}

// Importing the module runs the registration above.
PyMODINIT_FUNC PyInit__native(void) {
  static PyMethodDef methods[] = {
      {"instruction_sets", instruction_sets, METH_NOARGS, nullptr},
      {"instruction_set", instruction_set, METH_NOARGS, nullptr},
      {nullptr, nullptr, 0, nullptr}};
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_native", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
