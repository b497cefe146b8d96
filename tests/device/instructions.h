/**
 * @file instructions.h
 * @brief Tiny kernels, one instruction of ptx.cuh each, with what they must leave in memory.
 *
 * instructions.cu and measurements.cu are compiled twice, for the engine and by nvcc, and each time define
 * the functions below for their side. Both sides make the same probes from the same seed;
 * test_instructions.cpp runs and compares them.
 */
#ifndef MSA_INSTRUCTIONS_H
#define MSA_INSTRUCTIONS_H

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

using words = std::vector<uint32_t>;

/// A kernel reads `in`, and writes over `start`.
struct probe {
    const char *group; ///< probes of one line of TAP
    std::string name;  ///< what is special about this one
    words in, start;
    /// Enqueues the kernel on device memory. Returns NULL, or what was refused before it ran.
    std::function<const char *(const uint32_t *in, uint32_t *out)> launch;
    words expected; ///< computed by plain C++...
    /// ...or, where several results are right: empty, or what is wrong with this one.
    std::function<std::string(const words &out)> fault;
};

/// A question that the PTX ISA leaves open. The answer is one line; it is printed and judged by nobody.
struct measurement {
    const char *question;
    bool engine_refuses; ///< a kernel that relied on it would fail on the engine
    std::function<std::string(std::string &answer)> ask; ///< returns empty, or why there is no answer
};

/// One side: the engine or the GPU.
struct instruction_side {
    std::vector<probe> (*probes)(uint64_t seed);
    std::vector<measurement> (*measurements)();
    /// Runs a probe in fresh memory; returns empty, or what went wrong.
    std::string (*run)(const probe &p, words &out);
};
extern const instruction_side simt_instructions, cuda_instructions;
std::vector<measurement> simt_measurements(), cuda_measurements();

#endif
