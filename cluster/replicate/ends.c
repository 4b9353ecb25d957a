/* LOG_ENDS (rule 19): how far the logs of a partition go here. Whoever asks compares them when nobody may lead by what the sets say. */
#include "base/err.h"
#include "cluster/replicate/private.h"

void ends_handle(void *arg, const struct bus_peer *from, struct bus_request *req, struct slice payload)
{
    struct replication *r = arg;
    struct reader rd = reader_of(payload);
    uint64_t index = reader_uvarint(&rd);
    int64_t epoch = reader_varint(&rd);
    struct rpart *part;
    struct buf b = {0};

    (void)from;
    if (rd.bad || index >= r->count || epoch < INT32_MIN || epoch > INT32_MAX) {
        bus_reply(r->o.bus, req, ERR_MALFORMED, SLICE_NONE);
        return;
    }
    part = &r->parts[index];
    /* Logs that were not closed cleanly know their ends when a step has scanned them. */
    if (!r->started || r->stopping || part->working == WORK_STEP || part->step_wanted || part->rec.epoch < epoch || partition_state(part->p) < PARTITION_OPEN) {
        bus_reply(r->o.bus, req, ERR_AGAIN, SLICE_NONE);
        return;
    }
    buf_put_varint(&b, part->rec.epoch);
    LIST_FOREACH(node, &part->logs)
    {
        struct rlog *l = LIST_ENTRY(node, struct rlog, node);

        bool failed = l->log == NULL || log_failed(l->log) != 0;

        if (l->key.kind == LOG_MAIN && (failed || partition_state(part->p) == PARTITION_FAILED)) {
            log_end_put(&b, &(struct log_end_entry){.key = l->key, .epoch = -1}); /* D6: it counts as empty */
            continue;
        }
        if (failed)
            continue;
        log_end_put(&b, &(struct log_end_entry){.key = l->key, .start = log_start(l->log), .end = log_end(l->log), .epoch = log_last_epoch(l->log)});
    }
    bus_reply(r->o.bus, req, 0, buf_slice(&b));
    buf_fini(&b);
}
