/* A walk over all workers for one command: CLIENT LIST, KILL, UNBLOCK. The gather is mailed from worker to
 * worker, each adds what it knows of its own sessions, and back at the session's worker the reply is written.
 * No lock, no worker waits for another. */
#ifndef GM_RESP_GATHER_H
#define GM_RESP_GATHER_H

#include "protocols/resp/exec.h"

struct gather {
    struct mail mail;
    struct resp_front *front;
    unsigned home, at; /* worker indexes; the walk begins at home */
    uint64_t conn_id;  /* who asked */
    void (*visit)(struct gather *g, struct resp_worker *w);
    void (*finish)(struct gather *g, struct session *s); /* writes the reply */
    struct buf text;
    uint64_t count;
    /* what the visitors look for */
    struct gather_filter {
        uint64_t *ids; /* owned */
        uint32_t ids_count;
        struct buf addr, laddr, user; /* empty: any */
        int type;                     /* 0 any, 1 normal, 2 pubsub, 3 a kind that does not exist here */
        bool skip_me, with_error, old_form;
    } filter;
};

/* An empty gather, to be filled and started. */
struct gather *gather_new(void);
void gather_free(struct gather *g);
/* Takes it over; x->outcome becomes EXEC_BLOCKED, or the reply is there when this worker is the only one. */
void gather_start(struct exec *x, struct gather *g);

#endif
