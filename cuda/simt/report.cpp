/**
 * @file report.cpp
 * @brief What was wrong, where, and who waits for what.
 */
#include "engine.h"

#include <cstdarg>
#include <mutex>

namespace simt
{

static std::string failure; ///< the first since reset()
static std::mutex lock;
std::atomic<bool> stop;

void record_no_memory() // takes none: so short a string lies in its object
{
    std::lock_guard<std::mutex> hold(lock);
    if (failure.empty())
        failure = "no memory";
    stop = true;
}

std::string format(const char *fmt, ...)
{
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    return line;
}

std::string text(Site at)
{
    return format("%s:%d", at.file, at.line);
}

static std::string name_of(const Block &b)
{
    return format("block %u,%u,%u", b.index.x, b.index.y, b.index.z);
}

const std::string &report()
{
    return failure;
}

void record(const std::string &line)
{
    std::lock_guard<std::mutex> hold(lock);
    if (failure.empty())
        failure = line;
    stop = true;
}

static std::string seed_text()
{
    static const char *const order[] = {"forward", "reverse", "random", "unfair"}, *const timing[] = {
                                                                                       "late", "early",
                                                                                       "random"};
    return format("order %s, timing %s, seed %llu", order[(int)options.order], timing[(int)options.timing],
                  (unsigned long long)options.seed);
}

void fail(Site at, const char *fmt, ...)
{
    char line[4096];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    std::string where;
    if (running) {
        const Block &b = *running->block;
        where = format(" (%s, %s, thread %u; ", b.launch->name, name_of(b).c_str(), running->index);
    } else {
        where = " (";
    }
    record(text(at) + ": " + line + where + seed_text() + ")");
    throw Failed();
}

/// Threads that wait for the same thing at the same place, a line each: "threads 0-127: ... at file:line", or "thread 5".
static std::string who_waits(Block &b)
{
    std::map<std::string, std::string> groups;
    for (unsigned i = 0; i < b.threads.size();) {
        auto key = [&](unsigned j) {
            Thread &t = b.threads[j];
            return t.done ? std::string("exited")
                          : (t.waiting ? t.waiting->text() : "spins") + " at " + text(t.at);
        };
        unsigned first = i;
        const std::string what = key(i);
        while (++i < b.threads.size() && key(i) == what)
            ;
        groups[what] += first + 1 == i ? format(" %u", first) : format(" %u-%u", first, i - 1);
    }
    std::string all;
    for (const auto &g : groups)
        all += (g.second.find_first_of(" -", 1) == std::string::npos ? "\n    thread" : "\n    threads") +
               g.second + ": " + g.first;
    return all;
}

void deadlock(std::vector<std::unique_ptr<Block>> &blocks, const char *what)
{
    std::string all;
    Site at;
    bool found = false;
    for (auto &b : blocks) {
        all += "\n  " + name_of(*b) + " of " + b->launch->name + who_waits(*b);
        for (Thread &t : b->threads)
            if (!t.done && !found)
                at = t.at, found = true;
    }
    fail(at, "%s:%s\n ", what, all.c_str());
}

void forget_report()
{
    failure.clear();
}

} // namespace simt
