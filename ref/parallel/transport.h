/**
 * @file transport.h
 * @brief How ranks pass bytes to each other: one operation, with a body over threads of this process here and one over
 *        MPI in mpi/.
 */
#ifndef MSA_TRANSPORT_H
#define MSA_TRANSPORT_H

#include "traffic.h"

/** A stretch of memory; 0 bytes: no message. */
typedef struct transport_part {
    void *data;
    size_t bytes;
} transport_part;

typedef struct transport transport;
struct transport {
    int rank, ranks;
    double sent[TRAFFIC_N_KINDS]; /**< bytes that this rank has sent, by kind */
    double waited;                /**< seconds until an exchange was over, those of moving bytes among them */
    /** to[r] goes to rank r, from[r] receives what rank r has for this one; own parts are left alone. Every rank calls
     *  it, and both sides of a message know its size. False where memory runs out. */
    bool (*exchange)(transport *t, const transport_part *to, const transport_part *from);
    /** Ends all ranks with this exit status: nobody waits for one that cannot go on. */
    void (*end)(transport *t, int status);
    void *body;
};

/** An exchange that is counted. */
bool transport_exchange(transport *t, traffic_kind kind, const transport_part *to,
                        const transport_part *from);

/** Every rank's part, for everyone: own goes to all others; all[r] receives rank r's, and a copy of own. */
bool transport_gather(transport *t, traffic_kind kind, transport_part own, const transport_part *all);
/** Every rank's part, for rank 0, of whom alone `all` is read. */
bool transport_collect(transport *t, traffic_kind kind, transport_part own, const transport_part *all);

/** What a rank does. */
typedef void transport_task(transport *t, void *context);

/** Runs the task on so many ranks, threads of this process, and returns when all have ended. False where that many
 *  threads cannot be had; then nothing has run. */
bool transport_threads(int ranks, transport_task *task, void *context);

/** The rank that this process is, of those that were started together: NULL in build/msa, which is one process; in
 *  build/msa-mpi, which has mpi/world.c in place of world.c, that of mpirun. The first call joins the others. */
transport *transport_world(void);
/** Leaves them; after the last exchange. */
void transport_leave(void);

/** Keeps a line for the case that this process dies, of 255 bytes at most, in place of the one before; NULL: it is to end in
 *  silence. */
void transport_will(const char *line);
/** For handlers of the signal by which mpirun ends the others where one has died: the line of such a rank of this machine. ""
 *  where another has said it, NULL where all live or left in silence. */
const char *transport_dead(void);
/** Before a line that says why all ranks end, and `end`: of those on a machine that cannot go on the first returns, the others
 *  wait for their end. */
void transport_last_word(void);

#endif
