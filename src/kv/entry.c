#include "kv/entry.h"

#include "base/mem.h"

size_t entry_size(enum kv_encoding encoding, size_t key_len, bool ttl, size_t value_len)
{
    return sizeof(struct kv_entry) + (ttl ? 8 : 0) + (encoding != ENC_RAW ? 8 : 0) + (key_len > UINT8_MAX ? 4 : 0) +
           key_len + (encoding == ENC_RAW ? value_len : 0);
}

struct kv_entry *entry_new(enum kv_type type, enum kv_encoding encoding, struct slice key, int64_t expire_at, size_t value_len)
{
    struct kv_entry *e = mem_alloc(size_class(entry_size(encoding, key.len, expire_at != 0, value_len)));
    uint32_t key_len = (uint32_t)key.len;
    size_t at;

    CHECK(key.len <= KV_KEY_MAX && value_len <= ENTRY_INLINE_MAX);
    *e = (struct kv_entry){
        .type_encoding = (uint8_t)(type << 4 | encoding),
        .flags = (uint8_t)((expire_at != 0 ? ENTRY_TTL : 0) | (key.len > UINT8_MAX ? ENTRY_LONG_KEY : 0)),
        .key_len = key.len > UINT8_MAX ? 0 : (uint8_t)key.len,
        .value_len = (uint16_t)value_len,
    };
    if (expire_at != 0)
        memcpy(e->data, &expire_at, 8);
    at = entry_key_at(e);
    if (e->flags & ENTRY_LONG_KEY)
        memcpy(e->data + at - 4, &key_len, 4);
    if (key.len != 0)
        memcpy(e->data + at, key.data, key.len);
    return e;
}
