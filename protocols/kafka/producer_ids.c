/* InitProducerId 0-5 (KIP-98): ids come from the topology in blocks of a thousand a node and are never given
 * twice (rule 14). Transactional ids are refused by name. */
#include "protocols/kafka/session.h"

#include "base/err.h"
#include "base/mem.h"
#include "cluster/topology/commands.h"

#define BLOCK 1000

struct id_block {
    struct kafka_async async;
    struct topology_proposal proposal;
    struct kafka_front *front;
};

static void block_arrived(struct topology_proposal *p)
{
    struct id_block *b = CONTAINER_OF(p, struct id_block, proposal);

    if (p->err == 0) { /* two may ask at once: the earlier block's rest is left unused */
        mutex_lock(&b->front->ids_mu);
        if (b->front->ids_next == b->front->ids_end) {
            b->front->ids_next = p->producer_id;
            b->front->ids_end = p->producer_id + BLOCK;
        }
        mutex_unlock(&b->front->ids_mu);
    }
    buf_fini(&p->command);
    kafka_retry(&b->async, p->err);
    mem_free(b);
}

static int64_t take_id(struct kafka_front *f)
{
    int64_t id = -1;

    mutex_lock(&f->ids_mu);
    if (f->ids_next != f->ids_end)
        id = f->ids_next++;
    mutex_unlock(&f->ids_mu);
    return id;
}

static int ask_for_block(struct kafka_session *s)
{
    struct id_block *b = mem_zalloc(sizeof(*b));

    kafka_retry_later(s, &b->async);
    b->front = s->front;
    b->proposal.worker = s->conn->worker;
    b->proposal.done = block_arrived;
    topo_cmd_allocate_producer_ids(&b->proposal.command, BLOCK);
    topology_propose(s->front->options.topology, &b->proposal);
    return KAFKA_RETRY;
}

int kafka_handle_init_producer_id(struct kafka_session *s, struct kafka_request *rq)
{
    struct kafka_reply r;
    struct kin in;
    struct kout *o;
    struct slice transactional_id;
    int16_t code = 0;
    int64_t id = -1;

    kin_init(&in, rq->api->request, rq->version, rq->body);
    transactional_id = kin_string(&in, "TransactionalId");
    if (transactional_id.data != NULL) {
        code = transactional_id.len == 0 ? KAFKA_ERR_INVALID_REQUEST : KAFKA_ERR_UNSUPPORTED_VERSION;
    } else {
        id = take_id(s->front);
        if (id < 0 && (!s->retried || s->retry_err == 0))
            return ask_for_block(s);
        if (id < 0)
            code = KAFKA_ERR_COORDINATOR_NOT_AVAILABLE;
    }
    o = kafka_reply_begin(s, rq, &r);
    kout_i32(o, "ThrottleTimeMs", 0);
    kout_i16(o, "ErrorCode", code);
    kout_i64(o, "ProducerId", id);
    kout_i16(o, "ProducerEpoch", code == 0 ? 0 : -1);
    kout_i64(o, "OngoingTxnProducerId", -1);
    kout_i16(o, "OngoingTxnProducerEpoch", -1);
    kafka_reply_end(s, &r);
    return KAFKA_DONE;
}
