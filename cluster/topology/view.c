/* Reading the topology: finders and listings over one immutable version. Pure. */
#include "cluster/topology/state.h"

static void *find_scoped(const struct pmap *m, struct slice vhost, struct slice name)
{
    uint8_t space[640];
    struct buf b = {space, 0, sizeof(space)};

    if (vhost.len > 255 || name.len > 255)
        return NULL;
    topo_key_scoped(&b, vhost, name);
    return pmap_get(m, buf_slice(&b));
}

static void *find_u64(const struct pmap *m, uint64_t id)
{
    uint8_t key[8];

    be64_put(key, id);
    return pmap_get(m, slice_of(key, sizeof(key)));
}

const struct topo_vhost *topo_vhost_find(const struct topology *v, struct slice name)
{
    return pmap_get(&v->vhosts, name);
}

const struct topo_user *topo_user_find(const struct topology *v, struct slice name)
{
    return pmap_get(&v->users, name);
}

const struct topo_permission *topo_permission_find(const struct topology *v, struct slice user, struct slice vhost)
{
    uint8_t space[640];
    struct buf b = {space, 0, sizeof(space)};

    if (user.len > 255 || vhost.len > 255)
        return NULL;
    topo_key_permission(&b, user, vhost);
    return pmap_get(&v->permissions, buf_slice(&b));
}

const struct topo_exchange *topo_exchange_find(const struct topology *v, struct slice vhost, struct slice name)
{
    return find_scoped(&v->exchanges, vhost, name);
}

const struct topo_exchange *topo_exchange_by_id(const struct topology *v, uint64_t id)
{
    return find_u64(&v->exchanges_by_id, id);
}

const struct topo_queue *topo_queue_find(const struct topology *v, struct slice vhost, struct slice name)
{
    return find_scoped(&v->queues, vhost, name);
}

const struct topo_queue *topo_queue_by_id(const struct topology *v, uint64_t id)
{
    return find_u64(&v->queues_by_id, id);
}

const struct topo_topic *topo_topic_find(const struct topology *v, struct slice name)
{
    return pmap_get(&v->topics, name);
}

const struct topo_topic *topo_topic_by_uuid(const struct topology *v, const uint8_t uuid[16])
{
    return pmap_get(&v->topics_by_id, slice_of(uuid, 16));
}

const struct topo_node *topo_node_find(const struct topology *v, uint32_t id)
{
    uint8_t key[4];

    be32_put(key, id);
    return pmap_get(&v->nodes, slice_of(key, sizeof(key)));
}

/* A host that means "every address of mine" tells nobody anything. */
static bool is_host(struct slice h)
{
    return h.len != 0 && !slice_eq(h, SLICE_LIT("0.0.0.0")) && !slice_eq(h, SLICE_LIT("::")) && !slice_eq(h, SLICE_LIT("[::]")) && !slice_eq(h, SLICE_LIT("*"));
}

bool topo_node_address(const struct topo_node *n, enum topo_listener listener, char *host, size_t size, uint16_t *ret_port)
{
    const struct topo_endpoint *e = &n->endpoints[listener];
    struct slice h = is_host(e->host) ? e->host : n->endpoints[TOPO_BUS].host;

    if (e->port == 0 || !is_host(h) || h.len >= size)
        return false;
    memcpy(host, h.data, h.len);
    host[h.len] = '\0';
    *ret_port = e->port;
    return true;
}

struct slice topo_config(const struct topology *v, const char *name)
{
    const struct topo_config_item *item = pmap_get(&v->configs, slice_str(name));

    return item == NULL ? SLICE_NONE : item->value;
}

struct slice topo_topic_config(const struct topo_topic *t, const char *name)
{
    struct reader r = reader_of(t->configs);

    while (reader_left(&r) > 0 && !r.bad) {
        struct slice n = reader_lslice(&r), value = reader_lslice(&r);

        if (!r.bad && slice_eq(n, slice_str(name)))
            return value;
    }
    return SLICE_NONE;
}

/* The typed callbacks take a const pointer and the map's takes void *; this carries one through the other. */
struct each_arg {
    bool (*fn)(const void *object, void *arg);
    void *arg;
};

static bool each_object(struct slice key, void *value, void *arg)
{
    struct each_arg *a = arg;

    (void)key;
    return a->fn(value, a->arg);
}

#define EACH(map, prefix)                                                                                    \
    do {                                                                                                     \
        struct each_arg a_ = {(bool (*)(const void *, void *))fn, arg};                                      \
        pmap_each_prefix(map, prefix, each_object, &a_);                                                     \
    } while (0)

static void each_scoped(const struct pmap *m, struct slice vhost, bool (*fn)(const void *, void *), void *arg)
{
    struct buf b = {0};

    if (vhost.data != NULL)
        topo_key_scoped(&b, vhost, SLICE_NONE);
    EACH(m, buf_slice(&b));
    buf_fini(&b);
}

void topo_each_vhost(const struct topology *v, bool (*fn)(const struct topo_vhost *, void *), void *arg)
{
    EACH(&v->vhosts, SLICE_NONE);
}

void topo_each_user(const struct topology *v, bool (*fn)(const struct topo_user *, void *), void *arg)
{
    EACH(&v->users, SLICE_NONE);
}

void topo_each_permission(const struct topology *v, bool (*fn)(const struct topo_permission *, void *), void *arg)
{
    EACH(&v->permissions, SLICE_NONE);
}

void topo_each_exchange(const struct topology *v, struct slice vhost, bool (*fn)(const struct topo_exchange *, void *),
                        void *arg)
{
    each_scoped(&v->exchanges, vhost, (bool (*)(const void *, void *))fn, arg);
}

void topo_each_queue(const struct topology *v, struct slice vhost, bool (*fn)(const struct topo_queue *, void *),
                     void *arg)
{
    each_scoped(&v->queues, vhost, (bool (*)(const void *, void *))fn, arg);
}

void topo_each_topic(const struct topology *v, bool (*fn)(const struct topo_topic *, void *), void *arg)
{
    EACH(&v->topics, SLICE_NONE);
}

void topo_each_node(const struct topology *v, bool (*fn)(const struct topo_node *, void *), void *arg)
{
    EACH(&v->nodes, SLICE_NONE);
}

void topo_bindings_to(const struct topology *v, enum topo_binding_kind kind, uint64_t destination_id,
                      bool (*fn)(const struct topo_binding *, void *), void *arg)
{
    uint8_t key[9];

    key[0] = (uint8_t)kind;
    be64_put(key + 1, destination_id);
    EACH(&v->bindings_by_destination, slice_of(key, sizeof(key)));
}

void topo_match_all(const struct topology *v, uint64_t exchange_id, bool (*fn)(const struct topo_binding *, void *),
                    void *arg)
{
    uint8_t key[8];

    be64_put(key, exchange_id);
    EACH(&v->bindings, slice_of(key, sizeof(key)));
}

void topo_match_direct(const struct topology *v, uint64_t exchange_id, struct slice routing_key,
                       bool (*fn)(const struct topo_binding *, void *), void *arg)
{
    uint8_t space[640];
    struct buf b = {space, 0, sizeof(space)};

    if (routing_key.len > 255)
        return;
    buf_put_be64(&b, exchange_id);
    topo_key_routing(&b, routing_key);
    EACH(&v->bindings, buf_slice(&b));
}
