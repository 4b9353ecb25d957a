/* This node without its lease, as its clients should see it.
 *
 * Cut off from the others (or resumed after a pause) a node does not know who leads what it led. Clients that are connected to it learn that only by going elsewhere, and some ask the
 * broker they are connected to for as long as they are (librdkafka: for good). So what would keep them is ended:
 *
 *   an answer that waits for a commit    will not come. The connection goes when the lease does, as the outcome is not known; the client repeats the request with the next leader, whatever
 *                                        timeouts it has.
 *   Metadata, FindCoordinator            are not answered; the connection goes. A name of a leader would be a guess, and no name makes librdkafka wait for a second.
 *   Produce                              is answered NOT_LEADER_OR_FOLLOWER, then the connection goes (produce.c).
 *
 * Who reads from a follower stays and is served up to the last known high watermark. A node that never had a lease (it starts) answers as always. */
#include "base/clock.h"
#include "base/diag.h"
#include "base/err.h"
#include "base/mem.h"
#include "protocols/kafka/session.h"

bool kafka_is_cut_off(const struct kafka_session *s)
{
    return partitions_lease_over(s->front->options.partitions);
}

struct farewell {
    struct mail mail;
    struct kafka_front *front;
};

static void send_away(struct worker *w, struct mail *m)
{
    struct farewell *v = CONTAINER_OF(m, struct farewell, mail);
    struct kafka_front *f = v->front;
    unsigned count = 0;

    mem_free(v);
    if (partitions_lease_ok(f->options.partitions)) /* it came back meanwhile */
        return;
    LIST_FOREACH_SAFE (n, &f->scratch[worker_index(w)].sessions) {
        struct kafka_session *s = LIST_ENTRY(n, struct kafka_session, node);

        if (list_empty(&s->commits))
            continue;
        count++;
        conn_abort(s->conn, ERR_NO_LEASE);
    }
    if (count != 0)
        DIAG_EVERY(DIAG_WARN, "the lease has ended: Kafka clients that wait for replicas are disconnected", "count=%u", count);
}

void kafka_front_lease_ended(struct kafka_front *f)
{
    for (unsigned i = 0; i < workers_client_count(f->options.workers); i++) {
        struct farewell *v = mem_zalloc(sizeof(*v));

        v->mail.deliver = send_away;
        v->front = f;
        worker_post(workers_get(f->options.workers, i), &v->mail);
    }
}
