// Registers the kernels as the overloads `native` of the operators that difnet_kernels/ops.py defines, on LibTorch's
// stable ABI: one binary for every torch from 2.11 on. Python imports this library for the registration alone.
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
  difnet::Array array{tensor.data_ptr(), type_of(tensor), {0, 0, 0}};
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) array.strides[axis] = tensor.stride(axis);
  return array;
}

difnet::Array array_of(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? array_of(*tensor) : difnet::Array{};
}

double number(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? *static_cast<const double*>(tensor.data_ptr())
                                                     : *static_cast<const float*>(tensor.data_ptr());
}

// Sizes of a call whose arguments are what difnet_kernels/ops.py says they are; throws where one is not.
difnet::Sizes sizes_of(
    const Tensor& feature, const Tensor& state, std::initializer_list<Tensor> per_class,
    const std::optional<Tensor>& node_bias, std::initializer_list<Tensor> numbers) {
  const auto demand = [](bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(std::string("the walk's compiled kernels: expected ") + what);
  };
  const auto is_double = [](const Tensor& tensor) { return type_of(tensor) == difnet::Type::float64; };
  demand(feature.dim() == 3 && state.dim() == 3, "feature (B, N, d) and state (B, N, k)");
  const difnet::Sizes sizes{feature.size(0), feature.size(1), feature.size(2), state.size(2)};
  demand(sizes.batch > 0 && sizes.nodes > 0 && sizes.width > 0 && sizes.classes > 0, "B, N, d and k of 1 at least");
  const ScalarType type = is_double(feature) ? ScalarType::Double : ScalarType::Float;
  for (const Tensor& tensor : per_class) {
    demand(tensor.scalar_type() == type, "states in float64 where the feature is, in float32 elsewhere");
    demand(
        tensor.dim() == 3 && tensor.size(0) == sizes.batch && tensor.size(1) == sizes.nodes &&
            tensor.size(2) == sizes.classes,
        "states, seed and gradients of one shape (B, N, k)");
  }
  if (node_bias.has_value())
    demand(
        node_bias->scalar_type() == type && node_bias->dim() == 2 && node_bias->size(0) == sizes.batch &&
            node_bias->size(1) == sizes.nodes,
        "node_bias (B, N) in the states' type");
  for (const Tensor& tensor : numbers)
    demand(tensor.scalar_type() == type && tensor.dim() == 0, "mu and beta without axes, in the states' type");
  return sizes;
}

// PyTorch's threads.
difnet::Pool pool() {
  const auto run = [](int64_t count, difnet::Body body, void* context) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { body(context, begin, end); });
  };
  return {static_cast<int>(torch::stable::get_num_threads()), run};
}

// How products of the features are rounded: `name` is one of torch.get_float32_matmul_precision(), and matters to
// float32 alone.
difnet::Precision precision_of(const Tensor& feature, const std::string& name) {
  if (name != "highest" && name != "high" && name != "medium")
    throw std::invalid_argument("float32_precision: expected highest, high or medium, got " + name);
  if (feature.scalar_type() != ScalarType::Float || name == "highest") return difnet::Precision::highest;
  return name == "high" ? difnet::Precision::high : difnet::Precision::medium;
}

std::tuple<Tensor, Tensor, Tensor> walk_forward(
    Tensor feature, Tensor state, Tensor seed, Tensor mu, Tensor beta, std::optional<Tensor> node_bias,
    std::string float32_precision) {
  const difnet::Sizes sizes = sizes_of(feature, state, {state, seed}, node_bias, {mu, beta});
  const std::vector<int64_t> shape{sizes.batch, sizes.nodes, sizes.classes};
  Tensor new_state = torch::stable::new_empty(state, shape), z = torch::stable::new_empty(state, shape);
  Tensor lse = torch::stable::new_empty(state, {sizes.batch, sizes.nodes});
  difnet::chosen_kernels().forward(
      {sizes, array_of(feature), array_of(state), array_of(seed), array_of(node_bias), number(mu), number(beta),
       precision_of(feature, float32_precision), new_state.data_ptr(), z.data_ptr(), lse.data_ptr(), pool()});
  return {new_state, z, lse};
}

void set(const Tensor& tensor, double value) {
  if (tensor.scalar_type() == ScalarType::Double)
    *static_cast<double*>(tensor.data_ptr()) = value;
  else
    *static_cast<float*>(tensor.data_ptr()) = static_cast<float>(value);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> walk_backward(
    Tensor grad, Tensor feature, Tensor state, Tensor seed, Tensor z, Tensor lse, Tensor mu, Tensor beta,
    std::optional<Tensor> node_bias, std::string float32_precision, std::vector<bool> output_mask) {
  const difnet::Sizes sizes = sizes_of(feature, state, {grad, state, seed, z}, node_bias, {mu, beta});
  const std::vector<int64_t> per_node{sizes.batch, sizes.nodes}, none{0}, scalar;
  const std::vector<int64_t> per_class{sizes.batch, sizes.nodes, sizes.classes};
  const auto make = [&](int output, const Tensor& like, const std::vector<int64_t>& shape) {
    return torch::stable::new_empty(like, output_mask.at(output) ? shape : none);
  };
  Tensor grad_feature = make(0, feature, {sizes.batch, sizes.nodes, sizes.width});
  Tensor grad_state = make(1, state, per_class), grad_seed = make(2, state, per_class);
  Tensor grad_mu = make(3, state, scalar), grad_beta = make(4, state, scalar), grad_bias = make(5, state, per_node);
  const auto pointer = [&](int output, const Tensor& tensor) {
    return output_mask.at(output) ? tensor.data_ptr() : nullptr;
  };
  double of_mu = 0, of_beta = 0;
  difnet::chosen_kernels().backward(
      {sizes, array_of(grad), array_of(feature), array_of(state), array_of(seed), array_of(z), array_of(lse),
       array_of(node_bias), number(mu), number(beta), precision_of(feature, float32_precision), pointer(0, grad_feature), pointer(1, grad_state),
       pointer(2, grad_seed), pointer(5, grad_bias), &of_mu, &of_beta, pool()});
  if (output_mask[3]) set(grad_mu, of_mu);
  if (output_mask[4]) set(grad_beta, of_beta);
  return {grad_feature, grad_state, grad_seed, grad_mu, grad_beta, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(difnet_kernels, CPU, m) {
  m.impl("walk_forward.native", TORCH_BOX(&walk_forward));
  m.impl("walk_backward.native", TORCH_BOX(&walk_backward));
}

// Names of the instruction sets that can run here, the best first.
PyObject* instruction_sets(PyObject*, PyObject*) {
  const auto& kernels = difnet::available_kernels();
  PyObject* names = PyTuple_New(static_cast<Py_ssize_t>(kernels.size()));
  for (size_t n = 0; names != nullptr && n < kernels.size(); ++n)
    PyTuple_SetItem(names, static_cast<Py_ssize_t>(n), PyUnicode_FromString(kernels[n]->name));
  return names;
}

// The name of the one that walks use. Raises ValueError where DIFNET_CPU_ISA asks for one that cannot run here.
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
