/**
 * @file tsan.h
 * @brief What ThreadSanitizer is told, so that it sees races of plain accesses between threads of a CTA.
 *
 * To it each thread is a fiber, and so is each copy or product in flight: an agent that comes after its
 * issue and before those who wait for it. Switching between them orders nothing; barriers do, by what they
 * release and acquire. Only kernels are compiled with -fsanitize=thread. The engine, whose own data no
 * barrier guards, is compiled without, with MSA_SIMT_TSAN, into a shared library whose calls of memcpy and
 * such ThreadSanitizer is asked to overlook (tests/test_race.sh). Without MSA_SIMT_TSAN all of this is empty.
 */
#ifndef MSA_SIMT_TSAN_H
#define MSA_SIMT_TSAN_H

#include <cstddef>
#include <memory>

#ifdef MSA_SIMT_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {
void __tsan_func_entry(void *pc);
void __tsan_func_exit();
void __tsan_read_range(void *p, unsigned long bytes);
void __tsan_write_range(void *p, unsigned long bytes);
}
#define IF_TSAN(...) __VA_ARGS__
#define CALLER __builtin_return_address(0) ///< of the engine: the place in the kernel, for reports
#else
#define IF_TSAN(...)
#define CALLER nullptr
#endif

namespace simt
{
namespace tsan
{

inline void release(void *object)
{
    (void)object;
    IF_TSAN(__tsan_release(object);)
}
inline void acquire(void *object)
{
    (void)object;
    IF_TSAN(__tsan_acquire(object);)
}

/// Accesses that the engine makes for whoever called it from `pc`.
inline void reads(const void *p, size_t bytes, void *pc)
{
    (void)p, (void)bytes, (void)pc;
    IF_TSAN(__tsan_func_entry(pc); __tsan_read_range(const_cast<void *>(p), bytes); __tsan_func_exit();)
}
inline void writes(void *p, size_t bytes, void *pc)
{
    (void)p, (void)bytes, (void)pc;
    IF_TSAN(__tsan_func_entry(pc); __tsan_write_range(p, bytes); __tsan_func_exit();)
}

/// Who makes the accesses of something asynchronous: it comes after the instruction at `pc` that began it.
struct Agent {
    std::shared_ptr<void> fiber;
    void *pc;
    explicit Agent(void *issued_at) : pc(issued_at)
    {
        IF_TSAN(fiber.reset(__tsan_create_fiber(0), __tsan_destroy_fiber);)
    }
};

/// While this lives, what the engine does is done by the agent.
struct Acting {
    explicit Acting(const Agent &a)
    {
        (void)a;
        IF_TSAN(__tsan_switch_to_fiber(a.fiber.get(), __tsan_switch_to_fiber_no_sync);)
    }
    ~Acting()
    {
        IF_TSAN(__tsan_switch_to_fiber(back, __tsan_switch_to_fiber_no_sync);)
    }
    IF_TSAN(void *back = __tsan_get_current_fiber();)
};

} // namespace tsan
} // namespace simt
#endif
