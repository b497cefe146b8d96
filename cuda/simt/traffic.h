/**
 * @file traffic.h
 * @brief Memory instructions of a warp, put together from what its lanes do one after the other.
 */
#ifndef MSA_SIMT_TRAFFIC_H
#define MSA_SIMT_TRAFFIC_H

#include "simt.h"

namespace simt
{

struct Block;
struct Thread;

/// One warp-wide memory instruction, put together from its lanes.
struct Access {
    uint64_t address[32];
    uint32_t lanes;
    unsigned bytes;
};
/// The executions of one instruction by one warp, as each lane comes to them: a lane may be thousands ahead.
struct Stream {
    std::vector<uint64_t> address[32]; ///< by lane
    size_t whole = 0;                  ///< so many executions, by all lanes, are counted...
    unsigned behind = 32;              ///< ... and so many lanes have not come further
};
enum class Traffic { shared_load, shared_store, global_load, global_store };
struct Instruction { ///< of one warp
    Site at;
    unsigned warp;
    Traffic kind;
    unsigned bytes;
    bool operator==(const Instruction &o) const
    {
        return at.line == o.at.line && at.file == o.at.file && warp == o.warp && kind == o.kind &&
               bytes == o.bytes;
    }
};
struct InstructionHash {
    size_t operator()(const Instruction &i) const
    {
        return ((size_t)i.at.file ^ (size_t)i.at.line << 20) + (i.warp << 7) + (i.bytes << 2) +
               (size_t)i.kind;
    }
};

void count_access(Block &b, Thread &t, Traffic kind, uint64_t address, unsigned bytes, Site at);
void finish_counts(Block &b);

} // namespace simt

#endif
