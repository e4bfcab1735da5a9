// An accelerator that lives in host memory, so that what is on the wrong device fails everywhere.
//
// It takes the place of HPU, a device type that torch knows in every build and that needs a driver
// which is not there. Unlike PrivateUse1 its tensors can take a host tensor's place in a parameter,
// as those of CUDA can. Its kernels are the CPU's; tensors of two devices are refused. A copy that is
// made without waiting inside a stream is made when the stream is waited for, and not before.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/HPUHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace {

constexpr auto kType = c10::DeviceType::HPU;
constexpr c10::DeviceIndex kDevices = 2;

thread_local c10::DeviceIndex current = 0;
thread_local bool in_stream = false;
std::vector<std::pair<at::Tensor, at::Tensor>> pending;

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = std::malloc(bytes + 1);
    std::memset(data, 0xff, bytes);  // Not a number, to whoever reads what was never written.
    return {data, data, &std::free, c10::Device(kType, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(to, from, bytes);
  }
};
Memory memory;
REGISTER_ALLOCATOR(kType, &memory);

c10::DeviceIndex index_of(c10::Device device) { return device.index() < 0 ? 0 : device.index(); }

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  c10::Device getDevice() const override { return {kType, current}; }
  c10::Device exchangeDevice(c10::Device device) const override {
    return {kType, std::exchange(current, index_of(device))};
  }
  void setDevice(c10::Device device) const override { current = index_of(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current = index_of(device);
  }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return kDevices; }
};
C10_REGISTER_GUARD_IMPL(HPU, Guard);

struct Hooks final : at::HPUHooksInterface {
  explicit Hooks(at::HPUHooksArgs) {}
  void init() const override {}
  bool hasHPU() const override { return true; }
};

at::Tensor on_host(const at::Tensor& tensor) {
  if (tensor.device().type() != kType) return tensor;
  auto options = tensor.options().device(c10::DeviceType::CPU);
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), [keep = tensor](void*) {}, options);
}

template <typename Make>
at::Tensor made_on(std::optional<c10::Device> device, Make make) {
  auto before = current;
  if (device && device->index() >= 0) current = device->index();
  auto made = make();
  current = before;
  return made;
}

const c10::DispatchKeySet keys(c10::DispatchKey::HPU);

at::Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> dtype,
                 std::optional<c10::Layout>, std::optional<c10::Device> device,
                 std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  return made_on(device, [&] {
    return at::detail::empty_generic(size, &memory, keys, c10::dtype_or_default(dtype), format);
  });
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride,
                         std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
                         std::optional<c10::Device> device, std::optional<bool>) {
  return made_on(device, [&] {
    return at::detail::empty_strided_generic(size, stride, &memory, keys,
                                             c10::dtype_or_default(dtype));
  });
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (non_blocking && in_stream) {
    pending.emplace_back(from, to);
  } else {
    on_host(to).copy_(on_host(from));
  }
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

const at::Tensor& resize(const at::Tensor& self, c10::SymIntArrayRef size,
                         std::optional<c10::MemoryFormat>) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(size));
  size_t bytes = (impl->numel() + impl->storage_offset()) * impl->itemsize();
  if (bytes > self.storage().nbytes()) {
    auto grown = memory.allocate(bytes);
    std::memcpy(grown.get(), self.storage().data(), self.storage().nbytes());
    self.storage().set_data_ptr_noswap(std::move(grown));
    self.storage().set_nbytes(bytes);
  }
  return self;
}

c10::Scalar item(const at::Tensor& self) { return on_host(self).item(); }

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size,
                      c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  std::optional<int64_t> start;
  if (offset) start = offset->expect_int();
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size),
                                           C10_AS_INTARRAYREF_SLOW(stride), start);
}

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size,
                         c10::SymIntArrayRef stride) {
  return as_strided(self, size, stride, std::nullopt);
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight,
                       const std::optional<at::Tensor>& bias, c10::SymIntArrayRef stride,
                       c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
                       c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  TORCH_CHECK(input.device() == weight.device(), "convolution was given tensors on ",
              input.device(), " and ", weight.device());
  std::optional<at::Tensor> added;
  if (bias && bias->defined()) added = on_host(*bias);
  return at::convolution_symint(on_host(input), on_host(weight), added, stride, padding, dilation,
                                transposed, output_padding, groups)
      .to(input.device());
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source) {
  return at::native::set_(self, source);
}

at::Tensor& set_storage_part(at::Tensor& self, at::Storage source, c10::SymInt offset,
                             c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::set_storage_cpu_(self, source, offset.expect_int(),
                                      C10_AS_INTARRAYREF_SLOW(size),
                                      C10_AS_INTARRAYREF_SLOW(stride));
}

void on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  std::optional<c10::Device> seen;
  auto check = [&](const at::Tensor& tensor) {
    if (!tensor.defined() || (tensor.dim() == 0 && tensor.is_cpu())) return;
    TORCH_CHECK(!seen || *seen == tensor.device(), op.schema().operator_name(),
                " was given tensors on ", *seen, " and ", tensor.device());
    seen = tensor.device();
  };
  for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (value.isTensor()) check(value.toTensor());
    if (value.isTensorList()) {
      for (const auto& tensor : value.toTensorVector()) check(tensor);
    }
  }
  at::native::cpu_fallback(op, stack);
}

void enter_stream(bool inside) { in_stream = inside; }

void wait() {
  for (const auto& [from, to] : std::exchange(pending, {})) on_host(to).copy_(on_host(from));
}

int64_t waiting() { return static_cast<int64_t>(pending.size()); }

}  // namespace

namespace at {
REGISTER_HPU_HOOKS(Hooks);
}

TORCH_LIBRARY_IMPL(_, HPU, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, HPU, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("resize_", &resize);
  m.impl("_local_scalar_dense", &item);
  m.impl("as_strided", &as_strided);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("set_.source_Storage_storage_offset", &set_storage_part);
  m.impl("unfold", &at::native::unfold);
  m.impl("view", &view);
  m.impl("view_as_complex", &at::native::view_as_complex);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("convolution_overrideable", &convolution);
}

TORCH_LIBRARY(emulated, m) {
  m.def("enter_stream(bool inside) -> ()", &enter_stream);
  m.def("wait() -> ()", &wait);
  m.def("waiting() -> int", &waiting);
}
