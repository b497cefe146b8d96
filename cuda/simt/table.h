/**
 * @file table.h
 * @brief A table that grows while others read it.
 */
#ifndef MSA_SIMT_TABLE_H
#define MSA_SIMT_TABLE_H

#include <atomic>
#include <cstdint>
#include <mutex>

namespace simt
{

template <class T> struct Table {
    static constexpr uint32_t part = 4096;
    std::atomic<T *> parts[1 << 16] = {};
    std::atomic<uint32_t> n{1}; ///< 0 is nobody
    std::mutex lock;

    T &operator[](uint32_t i)
    {
        return parts[i / part].load(std::memory_order_acquire)[i % part];
    }
    uint32_t take(uint32_t count)
    {
        std::lock_guard<std::mutex> hold(lock);
        const uint32_t first = n;
        for (uint32_t i = first / part; i <= (first + count) / part; i++)
            if (!parts[i])
                parts[i].store(new T[part](), std::memory_order_release);
        n = first + count;
        return first;
    }
    void clear()
    {
        for (std::atomic<T *> &p : parts) {
            if (!p)
                break;
            delete[] p.load();
            p = nullptr;
        }
        n = 1;
    }
};

} // namespace simt

#endif
