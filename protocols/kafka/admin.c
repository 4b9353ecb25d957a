/* See admin.h. */
#include "protocols/kafka/admin.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/err.h"
#include "base/mem.h"

struct kafka_admin *kafka_admin_begin(struct kafka_session *s, const struct kafka_request *rq, unsigned count,
                                      void (*finish)(struct kafka_session *s, const struct kafka_request *rq,
                                                     struct kafka_admin *a))
{
    struct kafka_admin *a = mem_zalloc(sizeof(*a));

    kafka_async_begin(&a->async, s, rq, true);
    a->items = mem_calloc((size_t)count + 1, sizeof(*a->items));
    a->count = count;
    a->open = 1; /* the caller's, given back by kafka_admin_run */
    a->finish = finish;
    for (unsigned i = 0; i < count; i++) {
        a->items[i].all = a;
        a->items[i].partitions = -1;
    }
    return a;
}

static bool settle(struct kafka_admin *a)
{
    if (--a->open != 0)
        return false;
    if (a->async.session != NULL)
        a->finish(a->async.session, &a->async.rq, a);
    kafka_async_end(&a->async);
    for (unsigned i = 0; i < a->count; i++)
        buf_fini(&a->items[i].proposal.command);
    mem_free(a->items);
    mem_free(a);
    return true;
}

static void proposal_done(struct topology_proposal *p)
{
    struct kafka_admin_item *item = CONTAINER_OF(p, struct kafka_admin_item, proposal);

    if (p->err != 0)
        kafka_admin_fail(item, kafka_error_of(p->err), "%s", kafka_error_text(kafka_error_of(p->err)));
    (void)settle(item->all);
}

void kafka_admin_propose(struct kafka_admin *a, struct kafka_admin_item *item)
{
    a->open++;
    item->proposed = true;
    item->proposal.worker = a->async.worker;
    item->proposal.done = proposal_done;
    topology_propose(a->async.session->front->options.topology, &item->proposal);
}

void kafka_admin_fail(struct kafka_admin_item *item, int16_t code, const char *fmt, ...)
{
    va_list ap;

    item->code = code;
    va_start(ap, fmt);
    vsnprintf(item->why, sizeof(item->why), fmt, ap);
    va_end(ap);
}

int kafka_admin_run(struct kafka_admin *a)
{
    return settle(a) ? KAFKA_DONE : KAFKA_WAIT;
}
