// What XLA calls.
#include <algorithm>
#include <new>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "instruction_sets.h"
#include "shares.h"
#include "xla/ffi/api/ffi.h"

namespace recurrent_jax {

namespace {

namespace ffi = xla::ffi;

// Compiled code for numbers of type E, with sums of type T.
template <class T, class E>
const Functions<T, E>& functions(int64_t cell) {
  const InstructionSet& set = best_instruction_set();
  if constexpr (std::is_same_v<E, float>) return set.of_float[cell];
  else if constexpr (std::is_same_v<E, double>) return set.of_double[cell];
  else return set.of_bfloat16[cell];
}

// Threads that can run at once: the pool's, as far as there are cores for them.
int threads(const ffi::ThreadPool& pool) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const int all = static_cast<int>(pool.num_threads());
  return cores ? std::min(all, cores) : all;
}

Schedule schedule_on(ffi::ThreadPool& pool) {
  return [&](std::function<void()> task) { pool.Schedule(std::move(task)); };
}

// The result of work that says whether it had memory; no exception leaves this library.
template <class Work>
ffi::Error guarded(const Work& work) {
  try {
    if (work()) return ffi::Error::Success();
  } catch (const std::bad_alloc&) {
  }
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "recurrent_jax: no memory for scratch");
}

// Arguments and results that a call has no use for are arrays without elements.
template <class T, class Buffer>
T* data(Buffer& buffer) {
  return buffer.element_count() ? static_cast<T*>(buffer.untyped_data()) : nullptr;
}

// Asks for large pages where much memory is written for the first time: a fault for each small one takes longer than
// what is written there.
template <class Buffer>
void use_large_pages(Buffer& buffer) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(buffer->untyped_data()) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(buffer->untyped_data()) + buffer->size_bytes()) / kPage * kPage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // as good as it can
#else
  (void)buffer;
#endif
}

// A result that lies over an argument, unless the caller still wants the argument.
template <class T, class Buffer>
T* over(const Buffer& argument, ffi::Result<Buffer>& result) {
  T* to = data<T>(*result);
  const T* from = static_cast<const T*>(argument.untyped_data());
  if (to && to != from) std::copy_n(from, argument.element_count(), to);
  return to;
}

template <class T, class E, ffi::DataType kExact, ffi::DataType kType>
struct Handlers {
  using In = ffi::Buffer<kType>;
  using Exact = ffi::Buffer<kExact>;
  using Flags = ffi::Buffer<ffi::PRED>;
  using Out = ffi::Result<In>;
  using ExactOut = ffi::Result<Exact>;
  using Panels = ffi::Result<ffi::Buffer<ffi::U8>>;

  static ffi::Error forward(ffi::ThreadPool pool, int64_t cell, bool reverse, In xs, In w_x, In w_h, In h0,
                            In initial_h, Exact bias, Exact bias_n, Exact peepholes, Exact c0, Exact initial_c,
                            Flags keep, Flags reset, Out gates, Out extra, Out hs, ExactOut cs, ExactOut c_last,
                            Panels panels) {
    Problem<T, E> q = problem(reverse, h0, c0, initial_h, initial_c, keep, reset);
    q.steps = xs.dimensions()[0], q.rows = xs.dimensions()[1], q.features = xs.dimensions()[2];
    q.units = h0.dimensions()[1];
    q.xs = data<E>(xs), q.w_x = data<E>(w_x), q.w_h = data<E>(w_h);
    q.bias = data<T>(bias), q.bias_n = data<T>(bias_n), q.peepholes = data<T>(peepholes);
    q.gates = data<E>(*gates), q.extra = data<E>(*extra), q.hs = data<E>(*hs);
    q.cs = data<T>(*cs), q.c_last = data<T>(*c_last);
    use_large_pages(gates), use_large_pages(extra), use_large_pages(hs), use_large_pages(cs);
    return run(pool, cell, q, panels, Direction::kForward);
  }

  static ffi::Error backward(ffi::ThreadPool pool, int64_t cell, bool reverse, In w_h, In gates, In extra, In hs,
                             In d_ys, In d_hs, In h0, In initial_h, Exact peepholes, Exact cs, Exact d_cs, Exact dh,
                             Exact dc, Exact c0, Exact initial_c, Flags keep, Flags reset, Out d_gates, Out d_extra,
                             ExactOut d_h0, ExactOut d_c0, ExactOut d_initial_h, ExactOut d_initial_c, Panels panels) {
    Problem<T, E> q = problem(reverse, h0, c0, initial_h, initial_c, keep, reset);
    q.steps = hs.dimensions()[0], q.rows = hs.dimensions()[1], q.units = hs.dimensions()[2];
    q.w_h = data<E>(w_h), q.peepholes = data<T>(peepholes), q.hs = data<E>(hs), q.cs = data<T>(cs);
    q.gates = over<E>(gates, d_gates), q.extra = over<E>(extra, d_extra);
    q.dh = over<T>(dh, d_h0), q.dc = over<T>(dc, d_c0);
    q.d_ys = data<E>(d_ys), q.d_hs = data<E>(d_hs), q.d_cs = data<T>(d_cs);
    q.d_initial_h = data<T>(*d_initial_h), q.d_initial_c = data<T>(*d_initial_c);
    std::fill_n(q.d_initial_h, d_initial_h->element_count(), T(0));
    std::fill_n(q.d_initial_c, d_initial_c->element_count(), T(0));
    return run(pool, cell, q, panels, Direction::kBackward);
  }

  static ffi::Error inputs(ffi::ThreadPool pool, int64_t cell, bool reverse, In w_x, In d_gates, Flags keep,
                           Flags reset, Out d_xs, Panels panels) {
    Problem<T, E> q = {};
    q.reverse = reverse, q.keep = data<uint8_t>(keep), q.reset = data<uint8_t>(reset);
    q.steps = d_xs->dimensions()[0], q.rows = d_xs->dimensions()[1], q.features = d_xs->dimensions()[2];
    q.units = d_gates.dimensions()[2] / functions<T, E>(cell).gates;
    q.w_x = data<E>(w_x), q.gates = data<E>(d_gates), q.d_xs = data<E>(*d_xs);
    use_large_pages(d_xs);
    return run(pool, cell, q, panels, Direction::kInputs);
  }

  static ffi::Error gradient(ffi::ThreadPool pool, int64_t cell, bool reverse, In xs, In d_gates, In d_extra, In hs,
                             In h0, In initial_h, Exact cs, Exact c0, Exact initial_c, Flags keep, Flags reset,
                             ExactOut d_w_x, ExactOut d_bias, ExactOut d_w_h, ExactOut d_bias_n,
                             ExactOut d_peepholes) {
    Problem<T, E> q = problem(reverse, h0, c0, initial_h, initial_c, keep, reset);
    q.steps = xs.dimensions()[0], q.rows = xs.dimensions()[1], q.features = xs.dimensions()[2];
    q.units = hs.dimensions()[2];
    q.xs = data<E>(xs), q.gates = data<E>(d_gates), q.extra = data<E>(d_extra), q.hs = data<E>(hs), q.cs = data<T>(cs);
    q.d_w_x = data<T>(*d_w_x), q.d_bias = data<T>(*d_bias), q.d_w_h = data<T>(*d_w_h);
    q.d_bias_n = data<T>(*d_bias_n), q.d_peepholes = data<T>(*d_peepholes);
    return guarded([&] { return run_gradient(schedule_on(pool), threads(pool), functions<T, E>(cell), q); });
  }

  static auto forward_binding() {
    return panels(results<Exact, 2>(results<In, 3>(flags(args<Exact, 5>(args<In, 5>(context()))))));
  }
  static auto backward_binding() {
    return panels(results<Exact, 4>(results<In, 2>(flags(args<Exact, 7>(args<In, 8>(context()))))));
  }
  static auto inputs_binding() { return panels(results<In, 1>(flags(args<In, 2>(context())))); }
  static auto gradient_binding() { return results<Exact, 5>(flags(args<Exact, 3>(args<In, 6>(context())))); }

 private:
  // What most have in common.
  static Problem<T, E> problem(bool reverse, In h0, Exact c0, In initial_h, Exact initial_c, Flags keep, Flags reset) {
    Problem<T, E> q = {};
    q.reverse = reverse;
    q.h0 = data<E>(h0), q.c0 = data<T>(c0), q.initial_h = data<E>(initial_h), q.initial_c = data<T>(initial_c);
    q.keep = data<uint8_t>(keep), q.reset = data<uint8_t>(reset);
    return q;
  }
  // Runs a call that packs weights. Its room for them was measured by the machine that compiled the program.
  static ffi::Error run(ffi::ThreadPool& pool, int64_t cell, Problem<T, E>& q, Panels& panels, Direction direction) {
    const auto& code = functions<T, E>(cell);
    if (static_cast<ptrdiff_t>(panels->size_bytes()) < code.packed_size(q, direction)) {
      return ffi::Error(ffi::ErrorCode::kFailedPrecondition,
                        std::string("recurrent_jax: the program was compiled for another instruction set than ") +
                            best_instruction_set().name + ", which runs it; compile it here");
    }
    use_large_pages(panels);
    q.panels = panels->untyped_data();
    return guarded([&] { return run_shares(schedule_on(pool), threads(pool), code, q, direction); });
  }
  // Binds kCount arguments, or results, of one kind. XLA's bindings can't be moved, only handed on.
  template <class A, int kCount, class Binding>
  static auto args(Binding&& binding) {
    if constexpr (kCount == 1) return std::move(binding).template Arg<A>();
    else return args<A, kCount - 1>(std::move(binding).template Arg<A>());
  }
  template <class R, int kCount, class Binding>
  static auto results(Binding&& binding) {
    if constexpr (kCount == 1) return std::move(binding).template Ret<R>();
    else return results<R, kCount - 1>(std::move(binding).template Ret<R>());
  }
  static auto context() {
    return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().template Attr<int64_t>("cell").template Attr<bool>("reverse");
  }
  template <class Binding>
  static auto flags(Binding&& binding) {
    return args<Flags, 2>(std::move(binding));
  }
  template <class Binding>
  static auto panels(Binding&& binding) {
    return std::move(binding).template Ret<ffi::Buffer<ffi::U8>>();
  }
};

using Of32 = Handlers<float, float, ffi::F32, ffi::F32>;
using Of64 = Handlers<double, double, ffi::F64, ffi::F64>;
using OfBfloat16 = Handlers<float, Bfloat16, ffi::F32, ffi::BF16>;

}  // namespace

// All that the library shows.
#pragma GCC visibility push(default)

#define RJ_HANDLERS(dtype, Of)                                                                                 \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(RecurrentJax_forward_##dtype, Of::forward, Of::forward_binding());             \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(RecurrentJax_backward_##dtype, Of::backward, Of::backward_binding());          \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(RecurrentJax_inputs_##dtype, Of::inputs, Of::inputs_binding());                \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(RecurrentJax_gradient_##dtype, Of::gradient, Of::gradient_binding())

RJ_HANDLERS(float32, Of32);
RJ_HANDLERS(float64, Of64);
RJ_HANDLERS(bfloat16, OfBfloat16);

// Bytes that a call's result `panels` holds, for numbers of `bits` bits.
extern "C" int64_t RecurrentJaxPackedSize(int64_t cell, int64_t bits, int64_t direction, int64_t steps, int64_t rows,
                                          int64_t features, int64_t units) {
  const auto size = [&](auto problem, const auto& code) {
    problem.steps = steps, problem.rows = rows, problem.features = features, problem.units = units;
    return code.packed_size(problem, static_cast<Direction>(direction));
  };
  if (bits == 64) return size(Problem<double, double>{}, functions<double, double>(cell));
  if (bits == 32) return size(Problem<float, float>{}, functions<float, float>(cell));
  return size(Problem<float, Bfloat16>{}, functions<float, Bfloat16>(cell));
}

// The version of XLA's interface that this was built with. XLA runs what is older than itself.
extern "C" int64_t RecurrentJaxApi() { return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR; }

extern "C" const char* RecurrentJaxInstructionSet() { return best_instruction_set().name; }

#pragma GCC visibility pop

}  // namespace recurrent_jax
