// What XLA calls.
#include <algorithm>
#include <utility>

#include "instruction_sets.h"
#include "shares.h"
#include "xla/ffi/api/ffi.h"

namespace recurrent_jax {

namespace {

namespace ffi = xla::ffi;

template <class T>
const Functions<T>& functions(int64_t cell) {
  if constexpr (sizeof(T) == 4) return best_instruction_set().of_float[cell];
  else return best_instruction_set().of_double[cell];
}

Schedule schedule_on(ffi::ThreadPool& pool) {
  return [&](std::function<void()> task) { pool.Schedule(std::move(task)); };
}

ffi::Error result(bool had_memory) {
  if (had_memory) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "recurrent_jax: no memory for scratch");
}

// Arguments and results that a call has no use for are arrays without elements.
template <class T, class Buffer>
T* data(Buffer& buffer) {
  return buffer.element_count() ? static_cast<T*>(buffer.untyped_data()) : nullptr;
}

// A result that lies over an argument, unless the caller still wants the argument.
template <class T, class Buffer>
T* over(const Buffer& argument, ffi::Result<Buffer>& result) {
  T* to = data<T>(*result);
  const T* from = static_cast<const T*>(argument.untyped_data());
  if (to && to != from) std::copy_n(from, argument.element_count(), to);
  return to;
}

template <ffi::DataType kType>
struct Handlers {
  using T = ffi::NativeType<kType>;
  using In = ffi::Buffer<kType>;
  using Flags = ffi::Buffer<ffi::PRED>;
  using Out = ffi::Result<ffi::Buffer<kType>>;

  static ffi::Error forward(ffi::ThreadPool pool, int64_t cell, bool reverse, In xs, In w_x, In bias, In w_h, In bias_n,
                            In peepholes, In h0, In c0, In initial_h, In initial_c, Flags keep, Flags reset, Out gates,
                            Out extra, Out hs, Out cs, Out c_last, Out panels) {
    Problem<T> q = {};
    q.reverse = reverse;
    q.steps = xs.dimensions()[0], q.rows = xs.dimensions()[1], q.features = xs.dimensions()[2];
    q.units = h0.dimensions()[1];
    q.xs = data<T>(xs), q.w_x = data<T>(w_x), q.w_h = data<T>(w_h), q.bias = data<T>(bias), q.bias_n = data<T>(bias_n);
    q.peepholes = data<T>(peepholes);
    q.h0 = data<T>(h0), q.c0 = data<T>(c0), q.initial_h = data<T>(initial_h), q.initial_c = data<T>(initial_c);
    q.keep = data<uint8_t>(keep), q.reset = data<uint8_t>(reset);
    q.gates = data<T>(*gates), q.extra = data<T>(*extra), q.hs = data<T>(*hs);
    q.cs = data<T>(*cs), q.c_last = data<T>(*c_last), q.panels = data<T>(*panels);
    return result(run_shares(schedule_on(pool), pool.num_threads(), functions<T>(cell), q, false));
  }

  static ffi::Error backward(ffi::ThreadPool pool, int64_t cell, bool reverse, In w_h, In gates, In extra, In hs, In cs,
                             In d_ys, In d_hs, In d_cs, In dh, In dc, In h0, In c0, In initial_h, In initial_c,
                             In peepholes, Flags keep, Flags reset, Out d_gates, Out d_extra, Out d_h0, Out d_c0,
                             Out d_initial_h, Out d_initial_c, Out panels) {
    Problem<T> q = {};
    q.reverse = reverse;
    q.steps = hs.dimensions()[0], q.rows = hs.dimensions()[1], q.units = hs.dimensions()[2];
    q.w_h = data<T>(w_h), q.peepholes = data<T>(peepholes), q.hs = data<T>(hs), q.cs = data<T>(cs);
    q.gates = over<T>(gates, d_gates), q.extra = over<T>(extra, d_extra);
    q.dh = over<T>(dh, d_h0), q.dc = over<T>(dc, d_c0);
    q.d_ys = data<T>(d_ys), q.d_hs = data<T>(d_hs), q.d_cs = data<T>(d_cs);
    q.h0 = data<T>(h0), q.c0 = data<T>(c0), q.initial_h = data<T>(initial_h), q.initial_c = data<T>(initial_c);
    q.keep = data<uint8_t>(keep), q.reset = data<uint8_t>(reset);
    q.d_initial_h = data<T>(*d_initial_h), q.d_initial_c = data<T>(*d_initial_c);
    std::fill_n(q.d_initial_h, d_initial_h->element_count(), T(0));
    std::fill_n(q.d_initial_c, d_initial_c->element_count(), T(0));
    q.panels = data<T>(*panels);
    return result(run_shares(schedule_on(pool), pool.num_threads(), functions<T>(cell), q, true));
  }

  static ffi::Error gradient(ffi::ThreadPool pool, int64_t cell, bool reverse, In xs, In d_gates, In d_extra, In hs,
                             In cs, In h0, In c0, In initial_h, In initial_c, Flags keep, Flags reset, Out d_w_x,
                             Out d_bias, Out d_w_h, Out d_bias_n, Out d_peepholes) {
    Problem<T> q = {};
    q.reverse = reverse;
    q.steps = xs.dimensions()[0], q.rows = xs.dimensions()[1], q.features = xs.dimensions()[2];
    q.units = hs.dimensions()[2];
    q.xs = data<T>(xs), q.gates = data<T>(d_gates), q.extra = data<T>(d_extra), q.hs = data<T>(hs);
    q.cs = data<T>(cs);
    q.h0 = data<T>(h0), q.c0 = data<T>(c0), q.initial_h = data<T>(initial_h), q.initial_c = data<T>(initial_c);
    q.keep = data<uint8_t>(keep), q.reset = data<uint8_t>(reset);
    q.d_w_x = data<T>(*d_w_x), q.d_bias = data<T>(*d_bias), q.d_w_h = data<T>(*d_w_h);
    q.d_bias_n = data<T>(*d_bias_n), q.d_peepholes = data<T>(*d_peepholes);
    return result(run_gradient(schedule_on(pool), pool.num_threads(), functions<T>(cell), q));
  }
};

// Binds kCount arguments, or results, of one kind. XLA's bindings can't be moved, only handed on.
template <class A, int kCount, class Binding>
auto args(Binding&& binding) {
  if constexpr (kCount == 1) return std::move(binding).template Arg<A>();
  else return args<A, kCount - 1>(std::move(binding).template Arg<A>());
}
template <class R, int kCount, class Binding>
auto results(Binding&& binding) {
  if constexpr (kCount == 1) return std::move(binding).template Ret<R>();
  else return results<R, kCount - 1>(std::move(binding).template Ret<R>());
}

auto context() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<int64_t>("cell").Attr<bool>("reverse"); }

template <ffi::DataType kType>
auto forward_binding() {
  using Numbers = ffi::Buffer<kType>;
  return results<Numbers, 6>(args<ffi::Buffer<ffi::PRED>, 2>(args<Numbers, 10>(context())));
}

template <ffi::DataType kType>
auto backward_binding() {
  using Numbers = ffi::Buffer<kType>;
  return results<Numbers, 7>(args<ffi::Buffer<ffi::PRED>, 2>(args<Numbers, 15>(context())));
}

template <ffi::DataType kType>
auto gradient_binding() {
  using Numbers = ffi::Buffer<kType>;
  return results<Numbers, 5>(args<ffi::Buffer<ffi::PRED>, 2>(args<Numbers, 9>(context())));
}

}  // namespace

// All that the library shows.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(RecurrentJaxForward32, Handlers<ffi::F32>::forward, forward_binding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(RecurrentJaxForward64, Handlers<ffi::F64>::forward, forward_binding<ffi::F64>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(RecurrentJaxBackward32, Handlers<ffi::F32>::backward, backward_binding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(RecurrentJaxBackward64, Handlers<ffi::F64>::backward, backward_binding<ffi::F64>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(RecurrentJaxGradient32, Handlers<ffi::F32>::gradient, gradient_binding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(RecurrentJaxGradient64, Handlers<ffi::F64>::gradient, gradient_binding<ffi::F64>());

// Numbers of `bits` bits that a call's result `panels` holds.
extern "C" int64_t RecurrentJaxPackedSize(int64_t cell, int64_t bits, int64_t features, int64_t units, bool backward) {
  if (bits == 32) return functions<float>(cell).packed_size(features, units, backward);
  return functions<double>(cell).packed_size(features, units, backward);
}

// The version of XLA's interface that this was built with. XLA runs what is older than itself.
extern "C" int64_t RecurrentJaxApi() { return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR; }

extern "C" const char* RecurrentJaxInstructionSet() { return best_instruction_set().name; }

#pragma GCC visibility pop

}  // namespace recurrent_jax
