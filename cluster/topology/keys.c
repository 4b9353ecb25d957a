/* Keys of the topology's ordered maps.
 *
 *   exchanges, queues        be16 length of vhost | vhost | name
 *   permissions              uvarint length of user | user | vhost
 *   bindings                 be64 source | routing key as words | 00 | kind | be64 destination | be64 hash of the arguments
 *   bindings_by_destination  kind | be64 destination | the binding's key
 *
 * A routing key's words end with 01 (more follow) or 00 (the last); bytes 00 to 02 inside a word are written 02, byte + 1. So all bindings of an exchange with one
 * routing key are one prefix, and the map read by prefixes is the trie that topic exchanges walk. */
#include "base/hash.h"
#include "cluster/topology/state.h"

void topo_key_scoped(struct buf *b, struct slice vhost, struct slice name)
{
    buf_put_be16(b, (uint16_t)vhost.len);
    buf_put_slice(b, vhost);
    buf_put_slice(b, name);
}

void topo_key_permission(struct buf *b, struct slice user, struct slice vhost)
{
    buf_put_lslice(b, user);
    buf_put_slice(b, vhost);
}

void topo_key_word(struct buf *b, struct slice word)
{
    for (size_t i = 0; i < word.len; i++) {
        if (word.data[i] <= 2) {
            buf_put_u8(b, 2);
            buf_put_u8(b, (uint8_t)(word.data[i] + 1));
        } else {
            buf_put_u8(b, word.data[i]);
        }
    }
}

void topo_key_routing(struct buf *b, struct slice key)
{
    size_t start = 0;

    for (size_t i = 0; i <= key.len; i++) {
        if (i < key.len && key.data[i] != '.')
            continue;
        topo_key_word(b, slice_of(key.data + start, i - start));
        buf_put_u8(b, i < key.len ? 1 : 0);
        start = i + 1;
    }
}

void topo_key_binding(struct buf *b, const struct topo_binding *x)
{
    buf_put_be64(b, x->source_id);
    topo_key_routing(b, x->routing_key);
    buf_put_u8(b, (uint8_t)x->kind);
    buf_put_be64(b, x->destination_id);
    /* A fixed key: the order of equal bindings is the same on every node. */
    buf_put_be64(b, siphash13(x->args.data, x->args.len, 0, 0));
}

void topo_key_binding_to(struct buf *b, const struct topo_binding *x)
{
    buf_put_u8(b, (uint8_t)x->kind);
    buf_put_be64(b, x->destination_id);
    topo_key_binding(b, x);
}
