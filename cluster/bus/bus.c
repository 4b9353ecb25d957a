/* Opening and closing the bus, and sending over it.
 *
 *   1. bus_open     binds, makes the loopback links
 *   2.              handlers, identity, targets
 *   3. bus_start    the control worker accepts and dials
 *   4. bus_close    `closing`; each worker ends its links; calls end with ERR_CANCELLED and are delivered; what is left is freed
 *
 * Each step of closing waits for a whole turn of its worker, so that mails and dead connections of the step before are over. */
#include "cluster/bus/bus.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/bus/private.h"
#include "metrics/metrics.h"

static const struct bus_row rows[BUS_TYPES] = {
#define X(name, number, channel, since, text) [number] = {#name, channel, true},
#include "cluster/bus/messages.def"
#undef X
};

const struct bus_row *bus_row(unsigned type)
{
    static const struct bus_row unknown;

    return type < BUS_TYPES ? &rows[type] : &unknown;
}

const char *bus_type_name(unsigned type)
{
    return bus_row(type)->name;
}

/* ---- identity ---- */

void bus_identity(struct bus *b, enum bus_channel channel, struct hello *ret)
{
    *ret = (struct hello){.version = BUS_VERSION,
                          .channel = (uint8_t)channel,
                          .total_partitions = b->options.total_partitions,
                          .level_min = b->options.level_min,
                          .level_max = b->options.level_max,
                          .heartbeat_ms = b->options.heartbeat_ms};
    memcpy(ret->uuid, b->options.node_uuid, sizeof(ret->uuid));
    ret->process = b->process;
    snprintf(ret->address, sizeof(ret->address), "%s", b->advertise);
    mutex_lock(&b->lock);
    memcpy(ret->cluster_id, b->cluster_id, sizeof(ret->cluster_id));
    ret->node_id = b->node_id;
    ret->node_epoch = b->node_epoch;
    mutex_unlock(&b->lock);
}

static void refresh_loop(struct link *l)
{
    mutex_lock(&l->bus->lock);
    l->who.node_id = l->bus->node_id;
    l->who.node_epoch = l->bus->node_epoch;
    mutex_unlock(&l->bus->lock);
}

static void tell_all(struct bus *b, enum bus_channel channel)
{
    refresh_loop(b->loop[channel]);
    LIST_FOREACH_SAFE (n, &b->links[channel])
        link_say_identity(LIST_ENTRY(n, struct link, node));
}

static void judge_all(struct bus *b, enum bus_channel channel)
{
    LIST_FOREACH_SAFE (n, &b->links[channel])
        link_judge_again(LIST_ENTRY(n, struct link, node));
}

/* The same for the links of the data worker, there. */
struct data_mail {
    struct mail mail;
    struct bus *bus;
    void (*fn)(struct bus *b, enum bus_channel channel);
};

static void deliver_to_data(struct worker *w, struct mail *m)
{
    struct data_mail *t = CONTAINER_OF(m, struct data_mail, mail);

    (void)w;
    t->fn(t->bus, BUS_DATA);
    mem_free(t);
}

static void do_on_data(struct bus *b, void (*fn)(struct bus *b, enum bus_channel channel))
{
    struct data_mail *t = mem_alloc(sizeof(*t));

    *t = (struct data_mail){{NULL, deliver_to_data}, b, fn};
    worker_post(b->workers[BUS_DATA], &t->mail);
}

void bus_judge_again(struct bus *b)
{
    judge_all(b, BUS_CONTROL);
    do_on_data(b, judge_all);
}

void bus_set_identity(struct bus *b, const uint8_t cluster_id[16], uint32_t node_id, uint64_t node_epoch)
{
    MAGIC_CHECK(b, BUS_MAGIC);
    mutex_lock(&b->lock);
    memcpy(b->cluster_id, cluster_id, sizeof(b->cluster_id));
    b->node_id = node_id;
    b->node_epoch = node_epoch;
    mutex_unlock(&b->lock);
    tell_all(b, BUS_CONTROL);
    if (!b->started) {
        refresh_loop(b->loop[BUS_DATA]);
        return;
    }
    do_on_data(b, tell_all);
}

/* ---- opening ---- */

static void wheel_fired(struct worker *w, struct io_timer *t)
{
    calls_tick(CONTAINER_OF(t, struct bus, wheel_timer), worker_now_us(w));
}

static struct link *loopback_new(struct bus *b, enum bus_channel channel)
{
    struct link *l = link_new(b, channel);

    l->loopback = true;
    l->up = true;
    l->state = LINK_UP;
    memcpy(l->who.uuid, b->options.node_uuid, sizeof(l->who.uuid));
    snprintf(l->who_address, sizeof(l->who_address), "%s", b->advertise);
    return l;
}

int bus_open(const struct bus_options *options, struct bus **ret)
{
    struct listener_options lo = {.address = options->listen, .ops = &link_accept_ops, .worker = options->control, .max_connections = ACCEPTED_MAX};
    struct bus *b = mem_zalloc(sizeof(*b));
    int err;

    MAGIC_INIT(b, BUS_MAGIC);
    rand_secure(&b->process, sizeof(b->process));
    b->options = *options;
    b->options.listen = b->options.advertise = b->options.secret = NULL;
    if (b->options.heartbeat_ms == 0)
        b->options.heartbeat_ms = 500;
    if (b->options.message_max == 0)
        b->options.message_max = 160u << 20;
    if (b->options.assembly_max == 0)
        b->options.assembly_max = 256u << 20;
    b->workers[BUS_CONTROL] = options->control;
    b->workers[BUS_DATA] = options->data;
    b->secret = mem_strdup(options->secret != NULL ? options->secret : "");
    b->advertise = mem_strdup(options->advertise != NULL ? options->advertise : "");
    mutex_init(&b->lock);
    list_init(&b->peers);
    list_init(&b->all_links);
    calls_init(b);
    io_timer_init(&b->wheel_timer, wheel_fired);
    for (unsigned c = 0; c < BUS_CHANNELS; c++) {
        list_init(&b->links[c]);
        b->loop[c] = loopback_new(b, (enum bus_channel)c);
    }
    lo.arg = b;
    err = listener_reserve(options->workers, &lo, &b->listener);
    if (err < 0) {
        bus_close(b);
        return err;
    }
    b->port = listener_port(b->listener);
    *ret = b;
    return 0;
}

static void start_control(struct worker *w, void *arg)
{
    struct bus *b = arg;

    b->started = true;
    listener_begin(b->listener);
    io_timer_start(w, &b->wheel_timer, WHEEL_STEP_MS, WHEEL_STEP_MS);
    LIST_FOREACH (n, &b->peers)
        peer_start(LIST_ENTRY(n, struct peer, node));
}

void bus_start(struct bus *b)
{
    MAGIC_CHECK(b, BUS_MAGIC);
    worker_run(b->workers[BUS_CONTROL], start_control, b);
}

uint16_t bus_port(const struct bus *b)
{
    return b->port;
}

/* ---- closing ---- */

static void end_links(struct bus *b, enum bus_channel channel)
{
    LIST_FOREACH_SAFE (n, &b->links[channel])
        link_remove(LIST_ENTRY(n, struct link, node));
}

static void close_control(struct worker *w, void *arg)
{
    struct bus *b = arg;
    struct list *n;

    b->closing = true;
    listener_close(b->listener);
    b->listener = NULL;
    io_timer_stop(w, &b->wheel_timer);
    end_links(b, BUS_CONTROL);
    while ((n = list_pop_front(&b->peers)) != NULL) {
        struct peer *p = LIST_ENTRY(n, struct peer, node);

        for (unsigned c = 0; !b->started && c < BUS_CHANNELS; c++)
            link_remove(p->links[c]); /* nobody else knows them yet */
        peer_free(p);
    }
}

static void close_data(struct worker *w, void *arg)
{
    (void)w;
    end_links(arg, BUS_DATA);
}

static void nothing(struct worker *w, void *arg)
{
    (void)w;
    (void)arg;
}

static void wait_turns(struct bus *b)
{
    for (unsigned i = 0; i < 2; i++)
        workers_run_each(b->options.workers, nothing, NULL);
}

static void stop_loop(struct link *l)
{
    mutex_lock(&l->lock);
    l->up = false;
    mutex_unlock(&l->lock);
}

void bus_close(struct bus *b)
{
    if (b == NULL)
        return;
    MAGIC_CHECK(b, BUS_MAGIC);
    for (unsigned c = 0; c < BUS_CHANNELS; c++)
        stop_loop(b->loop[c]);
    if (b->listener != NULL) {
        worker_run(b->workers[BUS_CONTROL], close_control, b);
        wait_turns(b);
        worker_run(b->workers[BUS_DATA], close_data, b);
        wait_turns(b);
        worker_run(b->workers[BUS_DATA], close_data, b); /* one that was just changing hands */
    }
    calls_fail_link(b, NULL, ERR_CANCELLED);
    wait_turns(b);
    LIST_FOREACH_SAFE (n, &b->all_links)
        requests_drop(LIST_ENTRY(n, struct link, all));
    for (unsigned c = 0; c < BUS_CHANNELS; c++) {
        link_unref(b->loop[c]);
        buf_fini(&b->scratch[c]);
    }
    CHECK(list_empty(&b->all_links));
    show_free(b);
    calls_fini(b);
    mutex_fini(&b->lock);
    mem_free(b->secret);
    mem_free(b->advertise);
    MAGIC_FINI(b, BUS_MAGIC);
    mem_free(b);
}

/* ---- handlers and answers ---- */

void bus_handle(struct bus *b, enum bus_type type, bus_handler *fn, void *arg)
{
    MAGIC_CHECK(b, BUS_MAGIC);
    CHECK(bus_row(type)->known && b->handlers[type].fn == NULL && !b->started);
    b->handlers[type].fn = fn;
    b->handlers[type].arg = arg;
}

/* The request leaves its link; true: it still had one. */
static void release_request(struct bus_request *r)
{
    struct link *l = r->link;

    mutex_lock(&l->lock);
    list_remove(&r->node);
    r->link = NULL;
    if (l->requests_free_count < 256) {
        list_push_back(&l->requests_free, &r->node);
        l->requests_free_count++;
        r = NULL;
    }
    mutex_unlock(&l->lock);
    mem_free(r);
    link_unref(l);
}

void bus_reply(struct bus *b, struct bus_request *r, int err, struct slice payload)
{
    struct link *l = r->link;
    uint64_t id = r->id;
    uint16_t type = r->type;

    MAGIC_CHECK(b, BUS_MAGIC);
    link_ref(l);
    release_request(r);
    if (l->loopback) {
        calls_complete(b, l, id, err, payload);
    } else if (err == 0) {
        if (link_queue(l, type, FRAME_REPLY, id, payload) == SEND_TOO_LARGE)
            err = ERR_TOO_LARGE;
    }
    if (err != 0 && !l->loopback) {
        struct buf text = {0};

        buf_put_lslice(&text, slice_str(err_name(err)));
        buf_put(&text, payload.data, MIN_OF(payload.len, (size_t)1000));
        link_queue(l, type, FRAME_REPLY | FRAME_ERROR, id, buf_slice(&text));
        buf_fini(&text);
    }
    link_unref(l);
}

/* ---- sending ---- */

static bool send_on(struct link *l, enum bus_type type, struct slice payload)
{
    bool sent;

    if (l == NULL)
        return false;
    sent = link_queue(l, (uint16_t)type, 0, 0, payload) == SEND_OK;
    link_unref(l);
    return sent;
}

bool bus_send(struct bus *b, uint32_t node_id, enum bus_type type, struct slice payload)
{
    return send_on(peer_link(b, node_id, bus_row(type)->channel), type, payload);
}

bool bus_send_to(struct bus *b, const char *address, enum bus_type type, struct slice payload)
{
    return send_on(peer_link_at(b, address, bus_row(type)->channel), type, payload);
}

/* Entered before it is sent, so that whatever ends the link finds it. Without a link it waits on none, and is over at once. */
static void call_on(struct bus *b, struct link *l, enum bus_type type, struct slice payload, uint32_t timeout_ms, struct bus_call *c)
{
    uint64_t id = calls_add(b, c, l, timeout_ms);
    int err = ERR_NOT_FOUND;

    if (l != NULL) {
        switch (link_queue(l, (uint16_t)type, 0, id, payload)) {
        case SEND_OK:
            err = 0;
            break;
        case SEND_DOWN:
            break;
        case SEND_FULL:
            err = ERR_LIMIT;
            break;
        case SEND_TOO_LARGE:
            err = ERR_TOO_LARGE;
            break;
        }
    }
    if (err != 0)
        calls_refuse(b, id, err);
    if (l != NULL)
        link_unref(l);
}

void bus_call(struct bus *b, uint32_t node_id, enum bus_type type, struct slice payload, uint32_t timeout_ms, struct bus_call *c)
{
    call_on(b, peer_link(b, node_id, bus_row(type)->channel), type, payload, timeout_ms, c);
}

void bus_call_to(struct bus *b, const char *address, enum bus_type type, struct slice payload, uint32_t timeout_ms, struct bus_call *c)
{
    call_on(b, peer_link_at(b, address, bus_row(type)->channel), type, payload, timeout_ms, c);
}
