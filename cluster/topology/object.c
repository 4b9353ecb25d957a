#include "cluster/topology/object.h"

#include <openssl/evp.h>
#include <openssl/crypto.h>

#include "base/check.h"
#include "base/mem.h"

/* Copies the bytes of s to *at, moves *at on, and returns the copy. */
static struct slice place(uint8_t **at, struct slice s)
{
    struct slice copy = slice_of(*at, s.len);

    if (s.len != 0)
        memcpy(*at, s.data, s.len);
    *at += s.len;
    return copy;
}

struct topo_vhost *topo_vhost_new(uint64_t id, struct slice name)
{
    struct topo_vhost *o = mem_zalloc(sizeof(*o) + name.len);
    uint8_t *at = (uint8_t *)(o + 1);

    o->id = id;
    o->name = place(&at, name);
    return o;
}

struct topo_user *topo_user_new(struct slice name, const uint8_t salt[4], const uint8_t hash[32], struct slice tags)
{
    struct topo_user *o = mem_zalloc(sizeof(*o) + name.len + tags.len);
    uint8_t *at = (uint8_t *)(o + 1);

    memcpy(o->salt, salt, 4);
    memcpy(o->hash, hash, 32);
    o->name = place(&at, name);
    o->tags = place(&at, tags);
    return o;
}

void topo_password_hash(const uint8_t salt[4], struct slice password, uint8_t hash[32])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    unsigned len = 32;

    CHECK(ctx != NULL && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1);
    CHECK(EVP_DigestUpdate(ctx, salt, 4) == 1 && EVP_DigestUpdate(ctx, password.data, password.len) == 1);
    CHECK(EVP_DigestFinal_ex(ctx, hash, &len) == 1 && len == 32);
    EVP_MD_CTX_free(ctx);
}

bool topo_user_password_ok(const struct topo_user *u, struct slice password)
{
    uint8_t hash[32];

    topo_password_hash(u->salt, password, hash);
    return CRYPTO_memcmp(hash, u->hash, sizeof(hash)) == 0;
}

struct topo_user *topo_user_new_password(struct slice name, const uint8_t salt[4], struct slice password,
                                         struct slice tags)
{
    uint8_t hash[32];

    topo_password_hash(salt, password, hash);
    return topo_user_new(name, salt, hash, tags);
}

struct topo_permission *topo_permission_new(struct slice user, struct slice vhost, struct slice configure,
                                            struct slice write, struct slice read)
{
    struct topo_permission *o = mem_zalloc(sizeof(*o) + user.len + vhost.len + configure.len + write.len + read.len);
    uint8_t *at = (uint8_t *)(o + 1);

    o->user = place(&at, user);
    o->vhost = place(&at, vhost);
    o->configure = place(&at, configure);
    o->write = place(&at, write);
    o->read = place(&at, read);
    return o;
}

struct topo_exchange *topo_exchange_new(uint64_t id, uint64_t vhost_id, struct slice vhost, struct slice name,
                                        enum topo_exchange_type type, bool durable, bool auto_delete, bool internal,
                                        bool had_binding, struct slice args)
{
    struct topo_exchange *o = mem_zalloc(sizeof(*o) + vhost.len + name.len + args.len);
    uint8_t *at = (uint8_t *)(o + 1);

    o->id = id;
    o->vhost_id = vhost_id;
    o->type = type;
    o->durable = durable;
    o->auto_delete = auto_delete;
    o->internal = internal;
    o->had_binding = had_binding;
    o->vhost = place(&at, vhost);
    o->name = place(&at, name);
    o->args = place(&at, args);
    return o;
}

struct topo_queue *topo_queue_new(uint64_t id, uint64_t vhost_id, struct slice vhost, struct slice name, bool durable,
                                  bool exclusive, bool auto_delete, uint32_t owner_node, uint64_t owner_node_epoch,
                                  uint32_t partition, struct slice args)
{
    struct topo_queue *o = mem_zalloc(sizeof(*o) + vhost.len + name.len + args.len);
    uint8_t *at = (uint8_t *)(o + 1);

    o->id = id;
    o->vhost_id = vhost_id;
    o->durable = durable;
    o->exclusive = exclusive;
    o->auto_delete = auto_delete;
    o->owner_node = owner_node;
    o->owner_node_epoch = owner_node_epoch;
    o->partition = partition;
    o->vhost = place(&at, vhost);
    o->name = place(&at, name);
    o->args = place(&at, args);
    return o;
}

struct topo_binding *topo_binding_new(uint64_t source_id, enum topo_binding_kind kind, uint64_t destination_id,
                                      struct slice routing_key, struct slice args)
{
    struct topo_binding *o = mem_zalloc(sizeof(*o) + routing_key.len + args.len);
    uint8_t *at = (uint8_t *)(o + 1);

    o->source_id = source_id;
    o->kind = kind;
    o->destination_id = destination_id;
    o->routing_key = place(&at, routing_key);
    o->args = place(&at, args);
    return o;
}

struct topo_topic *topo_topic_new(uint64_t id, const uint8_t uuid[16], struct slice name, uint32_t partitions,
                                  int16_t replication_factor, struct slice configs)
{
    struct topo_topic *o = mem_zalloc(sizeof(*o) + name.len + configs.len);
    uint8_t *at = (uint8_t *)(o + 1);

    o->id = id;
    memcpy(o->uuid, uuid, 16);
    o->partitions = partitions;
    o->replication_factor = replication_factor;
    o->name = place(&at, name);
    o->configs = place(&at, configs);
    return o;
}

struct topo_node *topo_node_copy(const struct topo_node *n)
{
    size_t hosts = 0;
    struct topo_node *o;
    uint8_t *at;

    for (unsigned i = 0; i < TOPO_LISTENERS; i++)
        hosts += n->endpoints[i].host.len;
    o = mem_zalloc(sizeof(*o) + n->name.len + n->rack.len + hosts);
    at = (uint8_t *)(o + 1);
    *o = *n;
    o->name = place(&at, n->name);
    o->rack = place(&at, n->rack);
    for (unsigned i = 0; i < TOPO_LISTENERS; i++)
        o->endpoints[i].host = place(&at, n->endpoints[i].host);
    return o;
}

struct topo_config_item *topo_config_item_new(struct slice name, struct slice value)
{
    struct topo_config_item *o = mem_zalloc(sizeof(*o) + name.len + value.len);
    uint8_t *at = (uint8_t *)(o + 1);

    o->name = place(&at, name);
    o->value = place(&at, value);
    return o;
}
