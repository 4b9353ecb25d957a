#include "base/check.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "cluster/topology/state_private.h"
#include "log/effect.h"

#define NAME_MAX_BYTES 255       /* AMQP's short string */
#define TOPIC_NAME_MAX 249       /* Kafka's limit */
#define TOPIC_PARTITIONS_MAX 100000

/* ---- retiring and changes ----------------------------------------------------------------------------------------- */

void topo_retire_object(struct topo_state *s, void *object)
{
    struct topo_retired *r = &s->retired;

    if (object == NULL)
        return;
    if (r->count == r->cap) {
        r->cap = r->cap == 0 ? 32 : r->cap * 2;
        r->objects = mem_realloc(r->objects, r->cap * sizeof(r->objects[0]));
    }
    r->objects[r->count++] = object;
}

void topo_retired_free(struct topo_retired *r)
{
    pmap_retired_free(&r->nodes);
    for (size_t i = 0; i < r->count; i++)
        mem_free(r->objects[i]);
    mem_free(r->objects);
    *r = (struct topo_retired){0};
}

struct topology_change *topo_add_change(struct topo_state *s, enum topology_change_kind kind, struct slice name)
{
    struct topology_change *c;

    if (s->change_count == s->change_cap) {
        s->change_cap = s->change_cap == 0 ? 8 : s->change_cap * 2;
        s->changes = mem_realloc(s->changes, s->change_cap * sizeof(s->changes[0]));
    }
    c = &s->changes[s->change_count++];
    *c = (struct topology_change){.kind = kind};
    c->name = slice_of(mem_strdup_slice(name), name.len);
    return c;
}

void topo_state_clear_changes(struct topo_state *s)
{
    for (size_t i = 0; i < s->change_count; i++)
        mem_free((void *)s->changes[i].name.data);
    mem_free(s->changes);
    s->changes = NULL;
    s->change_count = s->change_cap = 0;
}

/* ---- the maps, object by object ------------------------------------------------------------------------------------- */

static void map_put(struct topo_state *s, struct pmap *m, struct slice key, void *object)
{
    pmap_put(m, key, object, &s->retired.nodes);
}

static void map_remove(struct topo_state *s, struct pmap *m, struct slice key)
{
    pmap_remove(m, key, &s->retired.nodes);
}

static struct slice key_u64(uint8_t space[8], uint64_t id)
{
    be64_put(space, id);
    return slice_of(space, 8);
}

void topo_insert_vhost(struct topo_state *s, struct topo_vhost *o)
{
    map_put(s, &s->v.vhosts, o->name, o);
}

void topo_insert_user(struct topo_state *s, struct topo_user *o)
{
    topo_retire_object(s, pmap_put(&s->v.users, o->name, o, &s->retired.nodes));
}

void topo_insert_permission(struct topo_state *s, struct topo_permission *o)
{
    struct buf b = {0};

    topo_key_permission(&b, o->user, o->vhost);
    topo_retire_object(s, pmap_put(&s->v.permissions, buf_slice(&b), o, &s->retired.nodes));
    buf_fini(&b);
}

void topo_insert_exchange(struct topo_state *s, struct topo_exchange *o)
{
    struct buf b = {0};
    uint8_t id[8];

    topo_key_scoped(&b, o->vhost, o->name);
    topo_retire_object(s, pmap_put(&s->v.exchanges, buf_slice(&b), o, &s->retired.nodes));
    map_put(s, &s->v.exchanges_by_id, key_u64(id, o->id), o);
    buf_fini(&b);
}

void topo_insert_queue(struct topo_state *s, struct topo_queue *o)
{
    struct buf b = {0};
    uint8_t id[8];

    topo_key_scoped(&b, o->vhost, o->name);
    map_put(s, &s->v.queues, buf_slice(&b), o);
    map_put(s, &s->v.queues_by_id, key_u64(id, o->id), o);
    buf_fini(&b);
}

void topo_insert_binding(struct topo_state *s, struct topo_binding *o)
{
    struct buf b = {0};

    topo_key_binding(&b, o);
    map_put(s, &s->v.bindings, buf_slice(&b), o);
    buf_clear(&b);
    topo_key_binding_to(&b, o);
    map_put(s, &s->v.bindings_by_destination, buf_slice(&b), o);
    buf_fini(&b);
}

void topo_insert_topic(struct topo_state *s, struct topo_topic *o)
{
    topo_retire_object(s, pmap_put(&s->v.topics, o->name, o, &s->retired.nodes));
    map_put(s, &s->v.topics_by_id, slice_of(o->uuid, 16), o);
}

void topo_insert_node(struct topo_state *s, struct topo_node *o)
{
    uint8_t key[4];

    be32_put(key, o->id);
    if (o->id >= s->v.next_node_id)
        s->v.next_node_id = o->id + 1; /* ids are never reused */
    topo_retire_object(s, pmap_put(&s->v.nodes, slice_of(key, 4), o, &s->retired.nodes));
}

void topo_insert_config(struct topo_state *s, struct topo_config_item *o)
{
    topo_retire_object(s, pmap_put(&s->v.configs, o->name, o, &s->retired.nodes));
}

/* ---- removing, with what hangs on it ---------------------------------------------------------------------------------- */

struct gather {
    const void **items;
    size_t count, cap;
    struct slice vhost;
};

static bool gather_one(const void *object, void *arg)
{
    struct gather *g = arg;

    if (g->count == g->cap) {
        g->cap = g->cap == 0 ? 16 : g->cap * 2;
        g->items = mem_realloc(g->items, g->cap * sizeof(g->items[0]));
    }
    g->items[g->count++] = object;
    return true;
}

static bool gather_binding(const struct topo_binding *x, void *arg)
{
    return gather_one(x, arg);
}

static void remove_exchange(struct topo_state *s, const struct topo_exchange *x);

static bool stop_at_first(const struct topo_binding *x, void *arg)
{
    (void)x;
    *(bool *)arg = true;
    return false;
}

static bool exchange_has_bindings(const struct topology *v, uint64_t id)
{
    bool found = false;

    topo_match_all(v, id, stop_at_first, &found);
    return found;
}

static void remove_binding(struct topo_state *s, const struct topo_binding *x, bool keep_source)
{
    const struct topo_exchange *source = topo_exchange_by_id(&s->v, x->source_id);
    struct buf b = {0};

    topo_key_binding(&b, x);
    map_remove(s, &s->v.bindings, buf_slice(&b));
    buf_clear(&b);
    topo_key_binding_to(&b, x);
    map_remove(s, &s->v.bindings_by_destination, buf_slice(&b));
    buf_fini(&b);
    topo_retire_object(s, (void *)x);
    if (!keep_source && source != NULL && source->auto_delete && source->had_binding &&
        !exchange_has_bindings(&s->v, source->id))
        remove_exchange(s, source);
}

static void remove_bindings_to(struct topo_state *s, enum topo_binding_kind kind, uint64_t id)
{
    struct gather g = {0};

    topo_bindings_to(&s->v, kind, id, gather_binding, &g);
    for (size_t i = 0; i < g.count; i++)
        remove_binding(s, g.items[i], false);
    mem_free(g.items);
}

static void remove_exchange(struct topo_state *s, const struct topo_exchange *x)
{
    struct gather g = {0};
    struct buf b = {0};
    uint8_t id[8];

    topo_key_scoped(&b, x->vhost, x->name);
    map_remove(s, &s->v.exchanges, buf_slice(&b));
    map_remove(s, &s->v.exchanges_by_id, key_u64(id, x->id));
    buf_fini(&b);
    topo_match_all(&s->v, x->id, gather_binding, &g);
    for (size_t i = 0; i < g.count; i++)
        remove_binding(s, g.items[i], true);
    mem_free(g.items);
    remove_bindings_to(s, TOPO_TO_EXCHANGE, x->id);
    topo_retire_object(s, (void *)x);
}

static void remove_queue(struct topo_state *s, const struct topo_queue *q)
{
    struct topology_change *c = topo_add_change(s, TOPO_QUEUE_DELETED, q->name);
    struct buf b = {0};
    uint8_t id[8];

    c->id = q->id;
    c->partition = q->partition;
    topo_key_scoped(&b, q->vhost, q->name);
    map_remove(s, &s->v.queues, buf_slice(&b));
    map_remove(s, &s->v.queues_by_id, key_u64(id, q->id));
    buf_fini(&b);
    remove_bindings_to(s, TOPO_TO_QUEUE, q->id);
    topo_retire_object(s, (void *)q);
}

/* ---- commands --------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    enum topo_exchange_type type;
    bool internal;
} predeclared[] = {
    {"", TOPO_DIRECT, false},           {"amq.direct", TOPO_DIRECT, false},   {"amq.fanout", TOPO_FANOUT, false},
    {"amq.headers", TOPO_HEADERS, false}, {"amq.match", TOPO_HEADERS, false}, {"amq.rabbitmq.trace", TOPO_TOPIC, true},
    {"amq.topic", TOPO_TOPIC, false},
};

static int add_vhost(struct topo_state *s, struct slice name, uint64_t *ret_id)
{
    struct topo_vhost *o;

    if (name.len == 0 || name.len > NAME_MAX_BYTES)
        return ERR_INVALID;
    if (topo_vhost_find(&s->v, name) != NULL)
        return ERR_EXISTS;
    o = topo_vhost_new(s->v.next_id++, name);
    *ret_id = o->id;
    topo_insert_vhost(s, o);
    for (size_t i = 0; i < ARRAY_LEN(predeclared); i++)
        topo_insert_exchange(s, topo_exchange_new(s->v.next_id++, o->id, name, slice_str(predeclared[i].name),
                                                  predeclared[i].type, true, false, predeclared[i].internal, false,
                                                  SLICE_NONE));
    return 0;
}

static bool gather_exchange(const struct topo_exchange *x, void *arg)
{
    return gather_one(x, arg);
}

static bool gather_queue(const struct topo_queue *q, void *arg)
{
    return gather_one(q, arg);
}

static bool gather_permission_of_vhost(const struct topo_permission *p, void *arg)
{
    struct gather *g = arg;

    return slice_eq(p->vhost, g->vhost) ? gather_one(p, arg) : true;
}

static bool gather_permission_of_user(const struct topo_permission *p, void *arg)
{
    struct gather *g = arg;

    return slice_eq(p->user, g->vhost) ? gather_one(p, arg) : true;
}

static void remove_permission(struct topo_state *s, const struct topo_permission *p)
{
    struct buf b = {0};

    topo_key_permission(&b, p->user, p->vhost);
    map_remove(s, &s->v.permissions, buf_slice(&b));
    buf_fini(&b);
    topo_retire_object(s, (void *)p);
}

static int delete_vhost(struct topo_state *s, struct slice name)
{
    const struct topo_vhost *o = topo_vhost_find(&s->v, name);
    struct gather g = {.vhost = name};

    if (o == NULL)
        return ERR_NOT_FOUND;
    topo_each_queue(&s->v, o->name, gather_queue, &g);
    for (size_t i = 0; i < g.count; i++)
        remove_queue(s, g.items[i]);
    g.count = 0;
    topo_each_exchange(&s->v, o->name, gather_exchange, &g);
    for (size_t i = 0; i < g.count; i++) {
        /* An auto-delete exchange may have gone with its last binding meanwhile. */
        const struct topo_exchange *x = g.items[i];
        uint8_t id[8];

        if (pmap_get(&s->v.exchanges_by_id, key_u64(id, x->id)) == x)
            remove_exchange(s, x);
    }
    g.count = 0;
    topo_each_permission(&s->v, gather_permission_of_vhost, &g);
    for (size_t i = 0; i < g.count; i++)
        remove_permission(s, g.items[i]);
    mem_free(g.items);
    topo_add_change(s, TOPO_VHOST_DELETED, name)->id = o->id;
    map_remove(s, &s->v.vhosts, o->name);
    topo_retire_object(s, (void *)o);
    return 0;
}

static int apply_form(struct topo_state *s, struct reader *r)
{
    const uint8_t *cluster_id = reader_take(r, 16);
    uint32_t partitions = reader_be32(r), level = reader_be32(r);
    const uint8_t *salt = reader_take(r, 4);
    uint64_t id;

    if (r->bad || partitions == 0 || partitions > 16384)
        return ERR_CORRUPT;
    if (level > EFFECT_LEVEL_MAX)
        return ERR_LEVEL;
    if (s->v.total_partitions != 0)
        return ERR_EXISTS;
    memcpy(s->v.cluster_id, cluster_id, 16);
    s->v.total_partitions = partitions;
    s->v.level = level;
    s->v.next_id = 1;
    s->v.next_node_id = 1;
    CHECK(add_vhost(s, SLICE_LIT("/"), &id) == 0);
    topo_insert_user(s, topo_user_new_password(SLICE_LIT("guest"), salt, SLICE_LIT("guest"), SLICE_LIT("administrator")));
    topo_insert_permission(s, topo_permission_new(SLICE_LIT("guest"), SLICE_LIT("/"), SLICE_LIT(".*"), SLICE_LIT(".*"),
                                                  SLICE_LIT(".*")));
    return 0;
}

/* ---- what hangs on a node (state_node.c) ------------------------------------------------------------------------------ */

void topo_remove_queues(struct topo_state *s, bool (*gone)(const struct topo_queue *q, const void *arg), const void *arg)
{
    struct gather g = {0};

    topo_each_queue(&s->v, SLICE_NONE, gather_queue, &g);
    for (size_t i = 0; i < g.count; i++)
        if (gone(g.items[i], arg))
            remove_queue(s, g.items[i]);
    mem_free(g.items);
}

void topo_remove_transient_exchanges(struct topo_state *s)
{
    struct gather g = {0};

    topo_each_exchange(&s->v, SLICE_NONE, gather_exchange, &g);
    for (size_t i = 0; i < g.count; i++) {
        const struct topo_exchange *x = g.items[i];
        uint8_t key[8];

        if (pmap_get(&s->v.exchanges_by_id, key_u64(key, x->id)) == x && !x->durable)
            remove_exchange(s, x);
    }
    mem_free(g.items);
}

static int apply_user_delete(struct topo_state *s, struct slice name)
{
    const struct topo_user *o = topo_user_find(&s->v, name);
    struct gather g = {.vhost = name};

    if (o == NULL)
        return ERR_NOT_FOUND;
    topo_each_permission(&s->v, gather_permission_of_user, &g);
    for (size_t i = 0; i < g.count; i++)
        remove_permission(s, g.items[i]);
    mem_free(g.items);
    topo_add_change(s, TOPO_USER_CHANGED, name);
    map_remove(s, &s->v.users, o->name);
    topo_retire_object(s, (void *)o);
    return 0;
}

static int apply_exchange_declare(struct topo_state *s, struct reader *r, struct topo_result *ret)
{
    struct slice vhost = reader_lslice(r), name = reader_lslice(r);
    uint8_t type = reader_u8(r), flags = reader_u8(r);
    struct slice args = reader_lslice(r);
    const struct topo_vhost *vh;
    const struct topo_exchange *old;
    struct topo_exchange *o;

    if (r->bad || type > TOPO_HEADERS)
        return ERR_CORRUPT;
    if (name.len > NAME_MAX_BYTES)
        return ERR_INVALID;
    vh = topo_vhost_find(&s->v, vhost);
    if (vh == NULL)
        return ERR_NOT_FOUND;
    old = topo_exchange_find(&s->v, vhost, name);
    if (old != NULL) {
        ret->id = old->id;
        return old->type == type && old->durable == (flags & 1) && old->auto_delete == (flags >> 1 & 1) &&
                       old->internal == (flags >> 2 & 1) && slice_eq(old->args, args)
                   ? 0
                   : ERR_MISMATCH;
    }
    o = topo_exchange_new(s->v.next_id++, vh->id, vhost, name, (enum topo_exchange_type)type, flags & 1, flags >> 1 & 1,
                          flags >> 2 & 1, false, args);
    topo_insert_exchange(s, o);
    ret->id = o->id;
    return 0;
}

static int apply_exchange_delete(struct topo_state *s, struct reader *r)
{
    struct slice vhost = reader_lslice(r), name = reader_lslice(r);
    bool if_unused = reader_u8(r);
    const struct topo_exchange *o;

    if (r->bad)
        return ERR_CORRUPT;
    o = topo_exchange_find(&s->v, vhost, name);
    if (o == NULL)
        return ERR_NOT_FOUND;
    if (if_unused && exchange_has_bindings(&s->v, o->id))
        return ERR_IN_USE;
    remove_exchange(s, o);
    return 0;
}

static int apply_queue_declare(struct topo_state *s, struct reader *r, struct topo_result *ret)
{
    struct slice vhost = reader_lslice(r), name = reader_lslice(r);
    uint8_t flags = reader_u8(r);
    uint32_t owner = reader_be32(r);
    uint64_t owner_epoch = reader_be64(r);
    struct slice args = reader_lslice(r);
    const struct topo_vhost *vh;
    const struct topo_queue *old;
    struct topo_queue *o;
    uint32_t h;

    if (r->bad)
        return ERR_CORRUPT;
    if (name.len == 0 || name.len > NAME_MAX_BYTES)
        return ERR_INVALID;
    vh = topo_vhost_find(&s->v, vhost);
    if (vh == NULL)
        return ERR_NOT_FOUND;
    old = topo_queue_find(&s->v, vhost, name);
    if (old != NULL) {
        ret->id = old->id;
        if (old->exclusive && (old->owner_node != owner || old->owner_node_epoch != owner_epoch))
            return ERR_LOCKED;
        return old->durable == (flags & 1) && old->exclusive == (flags >> 1 & 1) &&
                       old->auto_delete == (flags >> 2 & 1) && slice_eq(old->args, args)
                   ? 0
                   : ERR_MISMATCH;
    }
    /* DESIGN.md 1: FNV-1a-32(vhost + "/" + name) mod P */
    h = fnv1a32(vhost.data, vhost.len);
    h = fnv1a32_more(h, "/", 1);
    h = fnv1a32_more(h, name.data, name.len);
    o = topo_queue_new(s->v.next_id++, vh->id, vhost, name, flags & 1, flags >> 1 & 1, flags >> 2 & 1, owner,
                       owner_epoch, h % s->v.total_partitions, args);
    topo_insert_queue(s, o);
    ret->id = o->id;
    return 0;
}

static int read_binding(struct reader *r, struct topo_binding *ret)
{
    ret->source_id = reader_be64(r);
    ret->kind = (enum topo_binding_kind)reader_u8(r);
    ret->destination_id = reader_be64(r);
    ret->routing_key = reader_lslice(r);
    ret->args = reader_lslice(r);
    return r->bad || ret->kind > TOPO_TO_EXCHANGE ? ERR_CORRUPT : 0;
}

static const struct topo_binding *find_binding(const struct topology *v, const struct topo_binding *x)
{
    struct buf b = {0};
    const struct topo_binding *found;

    topo_key_binding(&b, x);
    found = pmap_get(&v->bindings, buf_slice(&b));
    buf_fini(&b);
    return found;
}

static int apply_bind(struct topo_state *s, struct reader *r)
{
    struct topo_binding x;
    const struct topo_exchange *source;
    int err = read_binding(r, &x);

    if (err < 0)
        return err;
    if (x.routing_key.len > NAME_MAX_BYTES)
        return ERR_INVALID;
    source = topo_exchange_by_id(&s->v, x.source_id);
    if (source == NULL ||
        (x.kind == TOPO_TO_QUEUE ? topo_queue_by_id(&s->v, x.destination_id) == NULL
                                 : topo_exchange_by_id(&s->v, x.destination_id) == NULL))
        return ERR_NOT_FOUND;
    if (find_binding(&s->v, &x) != NULL)
        return 0;
    topo_insert_binding(s, topo_binding_new(x.source_id, x.kind, x.destination_id, x.routing_key, x.args));
    if (source->auto_delete && !source->had_binding)
        topo_insert_exchange(s, topo_exchange_new(source->id, source->vhost_id, source->vhost, source->name, source->type,
                                                  source->durable, true, source->internal, true, source->args));
    return 0;
}

static int apply_unbind(struct topo_state *s, struct reader *r)
{
    struct topo_binding x;
    const struct topo_binding *found;
    int err = read_binding(r, &x);

    if (err < 0)
        return err;
    found = find_binding(&s->v, &x);
    if (found != NULL)
        remove_binding(s, found, false);
    return 0;
}

static int apply_topic_create(struct topo_state *s, struct reader *r, struct topo_result *ret)
{
    struct slice name = reader_lslice(r);
    const uint8_t *uuid = reader_take(r, 16);
    uint32_t partitions = reader_be32(r);
    int16_t factor = (int16_t)reader_be16(r);
    struct slice configs = reader_lslice(r);
    const struct topo_topic *old;
    struct topo_topic *o;
    struct topology_change *c;

    if (r->bad)
        return ERR_CORRUPT;
    if (name.len == 0 || name.len > TOPIC_NAME_MAX || partitions == 0 || partitions > TOPIC_PARTITIONS_MAX)
        return ERR_INVALID;
    old = topo_topic_find(&s->v, name);
    if (old != NULL) {
        ret->id = old->id;
        return ERR_EXISTS;
    }
    o = topo_topic_new(s->v.next_id++, uuid, name, partitions, factor, configs);
    topo_insert_topic(s, o);
    c = topo_add_change(s, TOPO_TOPIC_CREATED, name);
    c->id = ret->id = o->id;
    c->partitions = partitions;
    return 0;
}

static int apply_topic_delete(struct topo_state *s, struct slice name)
{
    const struct topo_topic *o = topo_topic_find(&s->v, name);
    struct topology_change *c;

    if (o == NULL)
        return ERR_NOT_FOUND;
    c = topo_add_change(s, TOPO_TOPIC_DELETED, name);
    c->id = o->id;
    c->partitions = o->partitions;
    map_remove(s, &s->v.topics, o->name);
    map_remove(s, &s->v.topics_by_id, slice_of(o->uuid, 16));
    topo_retire_object(s, (void *)o);
    return 0;
}

/* Replaces a topic by one with other partitions or configs. */
static void change_topic(struct topo_state *s, const struct topo_topic *o, uint32_t partitions, struct slice configs)
{
    struct topology_change *c = topo_add_change(s, TOPO_TOPIC_CHANGED, o->name);

    c->id = o->id;
    c->partitions = partitions;
    topo_insert_topic(s, topo_topic_new(o->id, o->uuid, o->name, partitions, o->replication_factor, configs));
}

static int apply_command(struct topo_state *s, struct reader *r, struct topo_result *ret)
{
    unsigned cmd = reader_u8(r);
    struct slice name, value;
    const struct topo_topic *topic;
    uint32_t count;

    if (r->bad)
        return ERR_CORRUPT;
    if (topo_command_since(cmd) > s->v.level && cmd != TOPO_CMD_FORM)
        return ERR_UNSUPPORTED;
    switch ((enum topo_command)cmd) {
    case TOPO_CMD_FORM:
        return apply_form(s, r);
    case TOPO_CMD_NODE_REGISTER:
        return topo_apply_node_register(s, r, ret);
    case TOPO_CMD_NODE_ENTER:
        return topo_apply_node_enter(s, r, ret);
    case TOPO_CMD_NODE_STATE:
        return topo_apply_node_state(s, r);
    case TOPO_CMD_NODE_ENDPOINTS:
        return topo_apply_node_endpoints(s, r);
    case TOPO_CMD_NODE_DRAIN:
        return topo_apply_node_drain(s, r);
    case TOPO_CMD_NODE_REMOVE:
        return topo_apply_node_remove(s, r);
    case TOPO_CMD_CLUSTER_SETTINGS:
        return topo_apply_cluster_settings(s, r);
    case TOPO_CMD_PARTITIONS_PLACE:
        return topo_apply_partitions_place(s, r);
    case TOPO_CMD_PARTITION_CHANGE:
        return topo_apply_partition_change(s, r, ret);
    case TOPO_CMD_PARTITION_INSYNC:
        return topo_apply_partition_insync(s, r, ret);
    case TOPO_CMD_PARTITION_DAMAGED:
        return topo_apply_partition_damaged(s, r);
    case TOPO_CMD_VHOST_ADD:
        name = reader_lslice(r);
        return r->bad ? ERR_CORRUPT : add_vhost(s, name, &ret->id);
    case TOPO_CMD_VHOST_DELETE:
        name = reader_lslice(r);
        return r->bad ? ERR_CORRUPT : delete_vhost(s, name);
    case TOPO_CMD_USER_PUT: {
        const uint8_t *salt, *hash;

        name = reader_lslice(r);
        salt = reader_take(r, 4);
        hash = reader_take(r, 32);
        value = reader_lslice(r);
        if (r->bad)
            return ERR_CORRUPT;
        if (name.len == 0 || name.len > NAME_MAX_BYTES)
            return ERR_INVALID;
        topo_insert_user(s, topo_user_new(name, salt, hash, value));
        topo_add_change(s, TOPO_USER_CHANGED, name);
        return 0;
    }
    case TOPO_CMD_USER_DELETE:
        name = reader_lslice(r);
        return r->bad ? ERR_CORRUPT : apply_user_delete(s, name);
    case TOPO_CMD_PERMISSION_PUT: {
        struct slice configure, write, read;

        name = reader_lslice(r);
        value = reader_lslice(r);
        configure = reader_lslice(r);
        write = reader_lslice(r);
        read = reader_lslice(r);
        if (r->bad)
            return ERR_CORRUPT;
        if (topo_user_find(&s->v, name) == NULL || topo_vhost_find(&s->v, value) == NULL)
            return ERR_NOT_FOUND;
        topo_insert_permission(s, topo_permission_new(name, value, configure, write, read));
        topo_add_change(s, TOPO_USER_CHANGED, name);
        return 0;
    }
    case TOPO_CMD_PERMISSION_DELETE: {
        const struct topo_permission *p;

        name = reader_lslice(r);
        value = reader_lslice(r);
        if (r->bad)
            return ERR_CORRUPT;
        p = topo_permission_find(&s->v, name, value);
        if (p == NULL)
            return ERR_NOT_FOUND;
        topo_add_change(s, TOPO_USER_CHANGED, name);
        remove_permission(s, p);
        return 0;
    }
    case TOPO_CMD_EXCHANGE_DECLARE:
        return apply_exchange_declare(s, r, ret);
    case TOPO_CMD_EXCHANGE_DELETE:
        return apply_exchange_delete(s, r);
    case TOPO_CMD_QUEUE_DECLARE:
        return apply_queue_declare(s, r, ret);
    case TOPO_CMD_QUEUE_DELETE: {
        const struct topo_queue *q = topo_queue_by_id(&s->v, reader_be64(r));

        if (r->bad)
            return ERR_CORRUPT;
        if (q == NULL)
            return ERR_NOT_FOUND;
        remove_queue(s, q);
        return 0;
    }
    case TOPO_CMD_BIND:
        return apply_bind(s, r);
    case TOPO_CMD_UNBIND:
        return apply_unbind(s, r);
    case TOPO_CMD_TOPIC_CREATE:
        return apply_topic_create(s, r, ret);
    case TOPO_CMD_TOPIC_DELETE:
        name = reader_lslice(r);
        return r->bad ? ERR_CORRUPT : apply_topic_delete(s, name);
    case TOPO_CMD_TOPIC_PARTITIONS:
        name = reader_lslice(r);
        count = reader_be32(r);
        if (r->bad)
            return ERR_CORRUPT;
        topic = topo_topic_find(&s->v, name);
        if (topic == NULL)
            return ERR_NOT_FOUND;
        if (count <= topic->partitions || count > TOPIC_PARTITIONS_MAX)
            return ERR_INVALID;
        change_topic(s, topic, count, topic->configs);
        return 0;
    case TOPO_CMD_TOPIC_CONFIGS:
        name = reader_lslice(r);
        value = reader_lslice(r);
        if (r->bad)
            return ERR_CORRUPT;
        topic = topo_topic_find(&s->v, name);
        if (topic == NULL)
            return ERR_NOT_FOUND;
        change_topic(s, topic, topic->partitions, value);
        return 0;
    case TOPO_CMD_ALLOCATE_PRODUCER_IDS:
        count = reader_be32(r);
        if (r->bad)
            return ERR_CORRUPT;
        ret->producer_id = s->v.next_producer_id;
        s->v.next_producer_id += count;
        return 0;
    case TOPO_CMD_CONFIG_PUT:
        name = reader_lslice(r);
        value = reader_lslice(r);
        if (r->bad)
            return ERR_CORRUPT;
        topo_insert_config(s, topo_config_item_new(name, value));
        topo_add_change(s, TOPO_CONFIG_CHANGED, name);
        return 0;
    case TOPO_CMD_CONFIG_DELETE: {
        struct topo_config_item *item;

        name = reader_lslice(r);
        if (r->bad)
            return ERR_CORRUPT;
        item = pmap_get(&s->v.configs, name);
        if (item == NULL)
            return ERR_NOT_FOUND;
        map_remove(s, &s->v.configs, name);
        topo_retire_object(s, item);
        topo_add_change(s, TOPO_CONFIG_CHANGED, name);
        return 0;
    }
    }
    return ERR_LEVEL;
}

int topo_state_apply(struct topo_state *s, struct slice command, struct topo_result *ret)
{
    struct reader r = reader_of(command);

    *ret = (struct topo_result){0};
    ret->err = apply_command(s, &r, ret);
    s->v.index++;
    return ret->err == ERR_CORRUPT || ret->err == ERR_LEVEL ? ret->err : 0;
}

static bool free_object(struct slice key, void *value, void *arg)
{
    (void)key;
    (void)arg;
    mem_free(value);
    return true;
}

void topo_state_free(struct topo_state *s)
{
    struct topology *v = &s->v;
    struct pmap *owners[] = {&v->nodes,  &v->vhosts,   &v->users,  &v->permissions, &v->exchanges,
                             &v->queues, &v->bindings, &v->topics, &v->configs};
    struct pmap *indexes[] = {&v->exchanges_by_id, &v->queues_by_id, &v->bindings_by_destination, &v->topics_by_id};

    for (size_t i = 0; i < ARRAY_LEN(owners); i++) {
        pmap_each_prefix(owners[i], SLICE_NONE, free_object, NULL);
        pmap_free(owners[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(indexes); i++)
        pmap_free(indexes[i]);
    topo_partition_table_free(v->partitions);
    topo_retired_free(&s->retired);
    topo_state_clear_changes(s);
}
