// Counts floating-point operations by device, whoever calls them and on whichever thread: products of matrices and
// convolutions, forward and backward, which are nearly all of a model's work.
#include <ATen/record_function.h>
#include <torch/extension.h>

#include <atomic>
#include <map>
#include <string>

namespace {

using at::Tensor;

std::atomic<int64_t> on_cpu{0}, elsewhere{0};

// A product of matrices takes 2 · rows · inner · columns: the first operand has rows · inner numbers.
int64_t product(const Tensor& first, const Tensor& second) { return 2 * first.numel() * second.size(-1); }

// Each output number of a convolution takes two operations for each weight of its kernel.
int64_t convolution(const Tensor& output, int64_t kernel) { return 2 * output.numel() * kernel; }

int64_t kernel_of(const Tensor& weight) { return weight.numel() / weight.size(0); }

void add(const Tensor& where, int64_t operations) { (where.is_cpu() ? on_cpu : elsewhere) += operations; }

// Tensors that only stand for others, as while a program is exported, are no work.
bool stands_for_another(const Tensor& tensor) {
  const auto keys = tensor.key_set();
  return tensor.is_meta() || keys.has(c10::DispatchKey::Python) || keys.has(c10::DispatchKey::Functionalize);
}

// How large a convolution's output is, one knows when it has run.
struct Convolution : at::ObserverContext {
  int64_t kernel;
};

const std::map<std::string, int> FIRST_FACTOR = {
    {"aten::mm", 0}, {"aten::bmm", 0}, {"aten::addmm", 1}, {"aten::baddbmm", 1}, {"aten::_addmm_activation", 1}};

std::unique_ptr<at::ObserverContext> before(const at::RecordFunction& call) {
  // A call that writes into a given output is the inside of one that makes its own, which is counted.
  if (!call.operator_name() || !call.operator_name()->overload_name.empty()) return nullptr;
  const auto inputs = call.inputs();
  if (inputs.empty() || !inputs[0].isTensor() || stands_for_another(inputs[0].toTensor())) return nullptr;
  const std::string name = call.name();
  const auto tensor = [&call](int index) { return call.inputs()[index].toTensor(); };
  if (const auto found = FIRST_FACTOR.find(name); found != FIRST_FACTOR.end()) {
    const int first = found->second;
    add(tensor(first), product(tensor(first), tensor(first + 1)));
  } else if (name.find("aten::_scaled_dot_product") == 0 && name.find("math") == name.npos &&
             name.find("backward") == name.npos) {
    add(tensor(0), 4 * tensor(0).numel() * tensor(1).size(-2));
  } else if (name == "aten::convolution_backward") {
    const auto mask = call.inputs()[10].toBoolList();
    add(tensor(1), convolution(tensor(0), kernel_of(tensor(2))) * (mask[0] + mask[1]));
  } else if (name == "aten::convolution") {
    auto running = std::make_unique<Convolution>();
    running->kernel = kernel_of(tensor(1));
    return running;
  }
  return nullptr;
}

void after(const at::RecordFunction& call, at::ObserverContext* context) {
  if (!context || call.outputs().empty()) return;  // a call that failed has no outputs
  const Tensor output = call.outputs()[0].toTensor();
  add(output, convolution(output, static_cast<Convolution*>(context)->kernel));
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("start", [] {
    at::addGlobalCallback(at::RecordFunctionCallback(&before, &after)
                              .needsInputs(true)
                              .needsOutputs(true)
                              .scopes({at::RecordScope::FUNCTION}));
  });
  m.def("counts", [] { return std::make_pair(on_cpu.load(), elsewhere.load()); });
}
