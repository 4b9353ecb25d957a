#include "protocols/amqp/route.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"

#define EXCHANGES_MAX 256 /* one message may pass; bindings may form loops */

struct routing {
    const struct topology *view;
    struct slice vhost, key, headers;
    struct amqp_target *targets;
    uint32_t count, cap;
    uint64_t seen[EXCHANGES_MAX]; /* exchanges visited, in order: also the work list */
    uint32_t seen_count;
    uint32_t before; /* targets before the exchange being walked */
    bool passed_on;  /* the exchange being walked led to another one */
    bool match_headers, by_headers;
};

static void add_target(struct routing *r, const struct topo_queue *q)
{
    if (r->count == r->cap) {
        r->cap = r->cap == 0 ? 8 : r->cap * 2;
        r->targets = mem_realloc(r->targets, r->cap * sizeof(*r->targets));
    }
    r->targets[r->count++] = (struct amqp_target){q->id, q->partition, q->exclusive ? q->owner_node : 0, q->durable && !q->exclusive};
}

static void add_exchange(struct routing *r, uint64_t id)
{
    for (uint32_t i = 0; i < r->seen_count; i++) {
        if (r->seen[i] == id)
            return;
    }
    if (r->seen_count < EXCHANGES_MAX)
        r->seen[r->seen_count++] = id;
}

static bool on_binding(const struct topo_binding *b, void *arg)
{
    struct routing *r = arg;

    if (r->match_headers && !amqp_headers_match(b->args, r->headers))
        return true;
    if (b->kind == TOPO_TO_QUEUE) {
        const struct topo_queue *q = topo_queue_by_id(r->view, b->destination_id);

        if (q != NULL)
            add_target(r, q);
    } else {
        r->passed_on = true;
        add_exchange(r, b->destination_id);
    }
    return true;
}

/* The alternate exchange takes what its exchange routes nowhere. */
static void alternate(struct routing *r, const struct topo_exchange *x)
{
    struct amqp_value v;
    const struct topo_exchange *other;

    if (!amqp_table_find(x->args, "alternate-exchange", &v) || v.type != 'S')
        return;
    other = topo_exchange_find(r->view, r->vhost, v.bytes);
    if (other != NULL)
        add_exchange(r, other->id);
}

static void walk(struct routing *r, const struct topo_exchange *x)
{
    uint32_t before = r->count;

    r->passed_on = false;
    r->match_headers = false;
    if (x->name.len == 0) {
        const struct topo_queue *q = topo_queue_find(r->view, r->vhost, r->key);

        if (q != NULL)
            add_target(r, q);
        return;
    }
    switch (x->type) {
    case TOPO_DIRECT:
        topo_match_direct(r->view, x->id, r->key, on_binding, r);
        break;
    case TOPO_TOPIC:
        topo_match_topic(r->view, x->id, r->key, on_binding, r);
        break;
    case TOPO_FANOUT:
        topo_match_all(r->view, x->id, on_binding, r);
        break;
    case TOPO_HEADERS:
        r->by_headers = r->match_headers = true;
        topo_match_all(r->view, x->id, on_binding, r);
        break;
    }
    if (r->count == before && !r->passed_on)
        alternate(r, x);
}

static int compare_targets(const void *a, const void *b)
{
    uint64_t x = ((const struct amqp_target *)a)->queue_id, y = ((const struct amqp_target *)b)->queue_id;

    return x < y ? -1 : x > y;
}

/* One copy a queue, however many bindings led to it. */
static void unique(struct routing *r)
{
    uint32_t n = 0;

    if (r->count < 2)
        return;
    qsort(r->targets, r->count, sizeof(*r->targets), compare_targets);
    for (uint32_t i = 0; i < r->count; i++) {
        if (n == 0 || r->targets[n - 1].queue_id != r->targets[i].queue_id)
            r->targets[n++] = r->targets[i];
    }
    r->count = n;
}

static void walk_from(struct routing *r, const struct topo_exchange *x, struct slice key)
{
    r->key = key;
    r->seen_count = 0;
    add_exchange(r, x->id);
    for (uint32_t i = 0; i < r->seen_count; i++) {
        const struct topo_exchange *at = topo_exchange_by_id(r->view, r->seen[i]);

        if (at != NULL)
            walk(r, at);
    }
}

static void walk_copies(struct routing *r, const struct topo_exchange *x, const char *name)
{
    struct amqp_value v, key;
    struct amqp_table_iter it;
    struct slice none;

    if (!amqp_table_find(r->headers, name, &v) || v.type != 'A')
        return;
    r->by_headers = true;
    amqp_array_iter_init(&it, v.bytes);
    while (amqp_table_next(&it, &none, &key)) {
        if (key.type == 'S')
            walk_from(r, x, key.bytes);
    }
}

int amqp_route_make(const struct topology *v, struct slice vhost, struct slice exchange,
                    struct slice routing_key, struct slice headers, struct amqp_route **ret)
{
    const struct topo_exchange *x = topo_exchange_find(v, vhost, exchange);
    struct routing r = {.view = v, .vhost = vhost, .headers = headers};
    struct amqp_route *route;
    uint8_t *text;

    if (x == NULL)
        return ERR_NOT_FOUND;
    if (x->internal)
        return ERR_ACCESS;
    walk_from(&r, x, routing_key);
    if (headers.len != 0) {
        walk_copies(&r, x, "CC");
        walk_copies(&r, x, "BCC");
    }
    unique(&r);
    route = mem_zalloc(sizeof(*route) + exchange.len + routing_key.len);
    text = (uint8_t *)(route + 1);
    route->index = v->index;
    route->exchange = slice_of(text, exchange.len);
    route->routing_key = slice_of(text + exchange.len, routing_key.len);
    if (exchange.len != 0)
        memcpy(text, exchange.data, exchange.len);
    if (routing_key.len != 0)
        memcpy(text + exchange.len, routing_key.data, routing_key.len);
    route->by_headers = r.by_headers;
    route->targets = r.targets;
    route->count = r.count;
    for (uint32_t i = 0; i < r.count; i++)
        route->durable |= r.targets[i].durable;
    *ret = route;
    return 0;
}

void amqp_route_free(struct amqp_route *r)
{
    if (r == NULL)
        return;
    mem_free(r->targets);
    mem_free(r);
}

int amqp_route_check_cc(struct slice headers, const char **ret_name, const char **ret_type)
{
    static const char *const names[] = {"CC", "BCC"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct amqp_value v, key;
        struct amqp_table_iter it;
        struct slice none;

        *ret_name = names[i];
        if (!amqp_table_find(headers, names[i], &v))
            continue;
        *ret_type = amqp_value_type_name(&v);
        if (v.type != 'A')
            return ERR_WRONG_TYPE;
        amqp_array_iter_init(&it, v.bytes);
        while (amqp_table_next(&it, &none, &key)) {
            *ret_type = amqp_value_type_name(&key);
            if (key.type != 'S' || key.bytes.len > 255)
                return ERR_WRONG_TYPE;
        }
    }
    return 0;
}

/* ---- headers exchanges: x-match all (default), any, all-with-x, any-with-x ----------------------------- */

bool amqp_headers_args_check(struct slice binding_args, struct amqp_value *ret)
{
    if (!amqp_table_find(binding_args, "x-match", ret))
        return true;
    return ret->type == 'S' &&
           (slice_eq(ret->bytes, SLICE_LIT("all")) || slice_eq(ret->bytes, SLICE_LIT("any")) ||
            slice_eq(ret->bytes, SLICE_LIT("all-with-x")) || slice_eq(ret->bytes, SLICE_LIT("any-with-x")));
}

static bool starts_x(struct slice name)
{
    return name.len >= 2 && name.data[0] == 'x' && name.data[1] == '-';
}

bool amqp_headers_match(struct slice binding_args, struct slice headers)
{
    struct amqp_table_iter it;
    struct amqp_value want, have, mode;
    struct slice name;
    bool any = false, with_x = false;

    if (amqp_table_find(binding_args, "x-match", &mode) && mode.type == 'S') {
        any = mode.bytes.len >= 3 && memcmp(mode.bytes.data, "any", 3) == 0;
        with_x = mode.bytes.len > 3;
    }
    amqp_table_iter_init(&it, binding_args);
    while (amqp_table_next(&it, &name, &want)) {
        bool hit;

        if (slice_eq(name, SLICE_LIT("x-match")) || (!with_x && starts_x(name)))
            continue;
        hit =
            amqp_table_find_slice(headers, name, &have) && (want.type == 'V' || amqp_value_eq(&want, &have));
        if (hit && any)
            return true;
        if (!hit && !any)
            return false;
    }
    return !any;
}
