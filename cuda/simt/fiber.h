/**
 * @file fiber.h
 * @brief A fiber: a stack of its own and a place to go on from. Only engine.cpp includes this.
 *
 * ucontext makes the first step onto the new stack. After that setjmp and longjmp do the switching, since
 * swapcontext asks the kernel for the signal mask each time. AddressSanitizer wants to be told of every
 * switch and dislikes such jumps, and so does ThreadSanitizer: under them, swapcontext does it all.
 */
#ifndef MSA_SIMT_FIBER_H
#define MSA_SIMT_FIBER_H

#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MSA_SIMT_ASAN
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define MSA_SIMT_ASAN
#endif

#ifdef MSA_SIMT_ASAN
#include <dlfcn.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef MSA_SIMT_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace simt
{

/// A place where execution can go on: a fiber's, or the scheduler's.
struct Context {
    ucontext_t first;
    jmp_buf here;
    const void *stack = nullptr;
    size_t stack_bytes = 0;
    void *tsan = nullptr;
};

struct Fiber {
    static constexpr size_t guard_bytes = 64 << 10, bytes = 256 << 10;
    unsigned char *memory;
    Context context;
    bool started = false;

    Fiber()
    {
        memory = (unsigned char *)mmap(nullptr, guard_bytes + bytes, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            throw std::bad_alloc();
        if (mprotect(memory, guard_bytes, PROT_NONE) != 0) {
            munmap(memory, guard_bytes + bytes);
            throw std::bad_alloc();
        }
        context.stack = memory + guard_bytes;
        context.stack_bytes = bytes;
    }
    ~Fiber()
    {
#ifdef MSA_SIMT_TSAN
        if (context.tsan)
            __tsan_destroy_fiber(context.tsan);
#endif
        munmap(memory, guard_bytes + bytes);
    }
    Fiber(const Fiber &) = delete;
    Fiber &operator=(const Fiber &) = delete;

    /// Forgets where it was: the next switch begins `main` anew.
    void restart()
    {
        started = false;
    }
    void prepare(void (*main)())
    {
        getcontext(&context.first);
        context.first.uc_stack.ss_sp = memory + guard_bytes;
        context.first.uc_stack.ss_size = bytes;
        context.first.uc_link = nullptr;
        makecontext(&context.first, main, 0);
        started = true;
#ifdef MSA_SIMT_TSAN
        if (context.tsan)
            __tsan_destroy_fiber(context.tsan);
        context.tsan = __tsan_create_fiber(0);
#endif
#ifdef MSA_SIMT_ASAN
        __asan_unpoison_memory_region(memory + guard_bytes, bytes);
#endif
    }
};

/// Saves this place in `from` and goes on at `to`; returns when somebody switches back. A fiber that runs
/// for the first time begins with arrived().
#ifdef MSA_SIMT_ASAN
inline void arrived(Context *scheduler)
{
    __sanitizer_finish_switch_fiber(nullptr, &scheduler->stack, &scheduler->stack_bytes);
}
/// The C library's own: the sanitizer's warns on standard error that it does not follow, and it is told here.
inline int swap(ucontext_t *from, const ucontext_t *to)
{
    static const auto f =
        (int (*)(ucontext_t *, const ucontext_t *))dlsym(dlopen("libc.so.6", RTLD_LAZY), "swapcontext");
    return f(from, to);
}
inline void switch_context(Context &from, Context &to, bool)
{
    void *fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, to.stack, to.stack_bytes);
    swap(&from.first, &to.first);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}
#elif defined(MSA_SIMT_TSAN)
inline void arrived(Context *)
{
}
inline void switch_context(Context &from, Context &to, bool)
{
    from.tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
    swapcontext(&from.first, &to.first);
}
#else
inline void arrived(Context *)
{
}
inline void switch_context(Context &from, Context &to, bool to_is_new)
{
    if (_setjmp(from.here))
        return;
    if (to_is_new)
        setcontext(&to.first);
    else
        _longjmp(to.here, 1);
}
#endif

} // namespace simt
#endif
