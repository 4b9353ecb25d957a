/* Strings: inline up to 512 bytes, integers as such, longer ones as a blob of their own. */
#include <stdio.h>

#include "base/err.h"
#include "base/mem.h"
#include "kv/state.h"

struct slice kv_string_bytes(struct kv *kv, const struct kv_entry *e)
{
    switch (entry_encoding(e)) {
    case ENC_INT: {
        char text[24];
        int n = snprintf(text, sizeof(text), "%lld", (long long)entry_payload(e));

        buf_clear(&kv->scratch);
        buf_put(&kv->scratch, text, (size_t)n);
        return buf_slice(&kv->scratch);
    }
    case ENC_BLOB: {
        const struct blob *b = entry_object(e);

        return slice_of(b->data, (size_t)b->len);
    }
    default:
        return entry_inline_value(e);
    }
}

static bool is_integer(struct slice value, int64_t *ret)
{
    if (value.len == 0 || value.len > 20 || value.data[0] > '9')
        return false;
    if (value.data[0] == '-' && (value.len == 1 || value.data[1] == '0'))
        return false;
    return slice_to_i64(value, ret);
}

static struct blob *blob_new(struct kv *kv, size_t len)
{
    size_t n = size_class(sizeof(struct blob) + len);
    struct blob *b = mem_alloc(n);

    b->len = len;
    b->cap = n - sizeof(*b);
    *kv->bytes += n;
    return b;
}

void kv_string_put(struct kv_ref *r, struct slice value, int64_t expire_at)
{
    struct kv_entry *e = r->e;
    int64_t number;
    enum kv_encoding encoding;

    if (is_integer(value, &number))
        encoding = ENC_INT;
    else
        encoding = value.len <= ENTRY_INLINE_MAX ? ENC_RAW : ENC_BLOB;

    /* In place where shape and size class stay the same. */
    if (e != NULL && entry_type(e) == KV_STRING && entry_encoding(e) == encoding &&
        ((e->flags & ENTRY_TTL) != 0) == (expire_at != 0)) {
        bool fits = true;

        if (encoding == ENC_RAW)
            fits = size_class(entry_size_of(e)) ==
                   size_class(entry_size(ENC_RAW, r->key.len, expire_at != 0, value.len));
        else if (encoding == ENC_BLOB)
            fits = size_class(sizeof(struct blob) + value.len) == sizeof(struct blob) + ((struct blob *)entry_object(e))->cap;
        if (fits) {
            if (expire_at != 0)
                memcpy(e->data, &expire_at, 8);
            if (encoding == ENC_INT) {
                entry_payload_set(e, (uint64_t)number);
            } else if (encoding == ENC_RAW) {
                uint8_t *to = (uint8_t *)entry_inline_value(e).data;

                e->value_len = (uint16_t)value.len;
                if (value.len != 0)
                    memcpy(to, value.data, value.len);
            } else {
                struct blob *b = entry_object(e);

                b->len = value.len;
                memcpy(b->data, value.data, value.len);
            }
            return;
        }
    }

    e = entry_new(KV_STRING, encoding, r->key, expire_at, encoding == ENC_RAW ? value.len : 0);
    if (encoding == ENC_INT) {
        entry_payload_set(e, (uint64_t)number);
    } else if (encoding == ENC_RAW) {
        if (value.len != 0)
            memcpy((uint8_t *)entry_inline_value(e).data, value.data, value.len);
    } else {
        struct blob *b = blob_new(r->kv, value.len);

        memcpy(b->data, value.data, value.len);
        entry_object_set(e, b);
    }
    if (r->e == NULL) {
        kv_ref_insert(r, e);
        return;
    }
    kv_entry_release_object(r->kv, r->e);
    kv_ref_replace(r, e);
}

/* Makes a string a blob of at least `room` bytes, at least doubling when it grows, and returns it. */
static struct blob *make_blob(struct kv_ref *r, size_t room)
{
    struct blob *b;
    struct slice now;
    struct kv_entry *e;

    if (r->e != NULL && entry_encoding(r->e) == ENC_BLOB) {
        size_t n;

        b = entry_object(r->e);
        if (b->cap >= room)
            return b;
        n = size_class(sizeof(*b) + MAX_OF(room, MIN_OF(b->cap * 2, b->cap + (1u << 20))));
        *r->kv->bytes += n - (sizeof(*b) + b->cap);
        b = mem_realloc(b, n);
        b->cap = n - sizeof(*b);
        entry_object_set(r->e, b);
        return b;
    }
    now = r->e == NULL ? SLICE_NONE : kv_string_bytes(r->kv, r->e);
    b = blob_new(r->kv, MAX_OF(room, now.len));
    b->len = now.len;
    if (now.len != 0)
        memcpy(b->data, now.data, now.len);
    e = entry_new(KV_STRING, ENC_BLOB, r->key, r->e == NULL ? 0 : entry_expire_at(r->e), 0);
    entry_object_set(e, b);
    if (r->e == NULL)
        kv_ref_insert(r, e);
    else
        kv_ref_replace(r, e);
    return b;
}

int kv_string_put_range(struct kv_ref *r, uint64_t offset, struct slice part)
{
    uint64_t end = offset + part.len, old;

    if (end < offset || end > KV_VALUE_MAX)
        return ERR_TOO_LARGE;
    old = r->e == NULL ? 0 : entry_encoding(r->e) == ENC_BLOB ? ((struct blob *)entry_object(r->e))->len
                                                              : kv_string_bytes(r->kv, r->e).len;
    if (MAX_OF(end, old) <= ENTRY_INLINE_MAX) {
        uint8_t value[ENTRY_INLINE_MAX];
        struct slice now = r->e == NULL ? SLICE_NONE : kv_string_bytes(r->kv, r->e);

        memset(value, 0, sizeof(value));
        if (now.len != 0)
            memcpy(value, now.data, now.len);
        if (part.len != 0)
            memcpy(value + offset, part.data, part.len);
        kv_string_put(r, slice_of(value, (size_t)MAX_OF(end, old)), r->e == NULL ? 0 : entry_expire_at(r->e));
    } else {
        struct blob *b = make_blob(r, (size_t)MAX_OF(end, old));

        if (offset > b->len)
            memset(b->data + b->len, 0, (size_t)(offset - b->len));
        if (part.len != 0)
            memcpy(b->data + offset, part.data, part.len);
        b->len = MAX_OF(end, b->len);
    }
    return 0;
}

/* ---- commands --------------------------------------------------------------------------------------------------------- */

int kv_string_get(struct kv_ctx *c, struct slice key, struct slice *ret)
{
    struct kv_ref r;

    if (!kv_ref_read(c, key, &r))
        return ERR_NOT_FOUND;
    if (entry_type(r.e) != KV_STRING)
        return ERR_WRONG_TYPE;
    *ret = kv_string_bytes(c->kv, r.e);
    return 0;
}

static void add_set_effect(struct kv_ctx *c, struct slice key, struct slice value, int64_t expire_at)
{
    uint8_t b[VARINT_MAX];
    struct slice parts[2] = {slice_of(b, varint_put(b, expire_at)), value};

    effect_add_parts(c->fx, EFFECT_KV_STRING_SET, c->db, key, parts, 2);
}

void kv_string_set(struct kv_ctx *c, struct slice key, struct slice value, int64_t expire_at)
{
    struct kv_ref r;

    CHECK(value.len <= KV_VALUE_MAX);
    kv_ref_look_up(c, key, &r);
    if (expire_at == KV_EXPIRE_KEEP)
        expire_at = r.e != NULL && !entry_is_expired(r.e, c->now_ms) ? entry_expire_at(r.e) : 0;
    add_set_effect(c, key, value, expire_at);
    kv_string_put(&r, value, expire_at);
    kv_ref_touch(&r);
}

int kv_string_incr(struct kv_ctx *c, struct slice key, int64_t by, int64_t *ret)
{
    struct kv_ref r;
    int64_t now = 0;
    char text[24];
    int n;

    if (kv_ref_write(c, key, &r)) {
        if (entry_type(r.e) != KV_STRING)
            return ERR_WRONG_TYPE;
        if (entry_encoding(r.e) == ENC_INT)
            now = (int64_t)entry_payload(r.e);
        else if (!slice_to_i64(kv_string_bytes(c->kv, r.e), &now))
            return ERR_NOT_INTEGER;
    }
    if (__builtin_add_overflow(now, by, &now))
        return ERR_OVERFLOW;
    n = snprintf(text, sizeof(text), "%lld", (long long)now);
    {
        struct slice value = slice_of(text, (size_t)n);
        int64_t expire_at = r.e == NULL ? 0 : entry_expire_at(r.e);

        add_set_effect(c, key, value, expire_at);
        kv_string_put(&r, value, expire_at);
    }
    kv_ref_touch(&r);
    *ret = now;
    return 0;
}

int kv_string_append(struct kv_ctx *c, struct slice key, struct slice tail, uint64_t *ret_len)
{
    uint64_t len;
    int err = kv_string_len(c, key, &len);

    if (err != 0)
        return err;
    return kv_string_set_range(c, key, len, tail, ret_len);
}

int kv_string_set_range(struct kv_ctx *c, struct slice key, uint64_t offset, struct slice part, uint64_t *ret_len)
{
    struct kv_ref r;
    uint64_t end = offset + part.len, old = 0;
    uint8_t b[VARINT_MAX];
    struct slice parts[2] = {slice_of(b, uvarint_put(b, offset)), part};

    if (end < offset || end > KV_VALUE_MAX)
        return ERR_TOO_LARGE;
    if (kv_ref_write(c, key, &r)) {
        if (entry_type(r.e) != KV_STRING)
            return ERR_WRONG_TYPE;
        old = kv_string_bytes(c->kv, r.e).len;
    }
    /* SETRANGE with an empty value makes no key (Redis, t_string.c); APPEND of nothing to nothing does. */
    if (part.len == 0 && (r.e != NULL || offset != 0)) {
        *ret_len = old;
        return 0;
    }
    effect_add_parts(c->fx, EFFECT_KV_STRING_RANGE, c->db, key, parts, 2);
    CHECK(kv_string_put_range(&r, offset, part) == 0);
    kv_ref_touch(&r);
    *ret_len = MAX_OF(end, old);
    return 0;
}

int kv_string_len(struct kv_ctx *c, struct slice key, uint64_t *ret)
{
    struct kv_ref r;

    *ret = 0;
    if (!kv_ref_read(c, key, &r))
        return 0;
    if (entry_type(r.e) != KV_STRING)
        return ERR_WRONG_TYPE;
    *ret = kv_string_bytes(c->kv, r.e).len;
    return 0;
}
