/* `GOMSG <verb> [arguments]`: administration through RESP. The front end hands the words to the server's admin thread, which may block (proposals, walks over all workers), and replies when
 * the call comes back; the connection's input is paused meanwhile, so the order of replies holds. */
#ifndef GM_RESP_ADMIN_H
#define GM_RESP_ADMIN_H

#include "base/buf.h"
#include "io/worker.h"

struct resp_admin_call {
    struct mail mail;      /* private to the server until `done` */
    struct worker *worker; /* where `done` runs */
    void (*done)(struct resp_admin_call *call);
    struct slice *argv;    /* owned copies of the words behind GOMSG; the caller's */
    unsigned argc;
    bool trusted;          /* came over ctl.sock, or from loopback or a logged-in administrator: may change things */
    int err;               /* 0: `answer` is JSON, sent as a bulk string; else it is the text of an error reply without "ERR " */
    struct buf answer;     /* the caller's to free */
};

/* Given to the front end's options as (admin, admin_arg). Any worker; the call stays the caller's until done. */
typedef void resp_admin_submit(void *arg, struct resp_admin_call *call);

#endif
