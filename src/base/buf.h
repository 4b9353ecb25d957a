/* A growing byte buffer. Owned by one thread; zero-initialised is empty and valid.
 * Growth doubles; running out of memory aborts (base/mem.h), so the put functions cannot fail: whatever a peer
 * sizes is bounded before it gets here. */
#ifndef GM_BASE_BUF_H
#define GM_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/bytes.h"
#include "base/slice.h"

struct buf {
    uint8_t *data; /* owned */
    size_t len;
    size_t cap;
};

void buf_grow(struct buf *b, size_t room); /* the slow half of buf_reserve */
void buf_fini(struct buf *b);              /* frees; b is empty and valid again */

/* Makes room for n more bytes and returns where they go; buf_advance says how many were written. */
static inline uint8_t *buf_reserve(struct buf *b, size_t n)
{
    if (b->cap - b->len < n)
        buf_grow(b, n);
    return b->data + b->len;
}
static inline void buf_advance(struct buf *b, size_t n)
{
    b->len += n;
}
static inline void buf_clear(struct buf *b)
{
    b->len = 0;
}
static inline struct slice buf_slice(const struct buf *b)
{
    return slice_of(b->data, b->len);
}
static inline void buf_put(struct buf *b, const void *data, size_t n)
{
    if (n != 0)
        memcpy(buf_reserve(b, n), data, n);
    b->len += n;
}
static inline void buf_put_slice(struct buf *b, struct slice s)
{
    buf_put(b, s.data, s.len);
}
static inline void buf_put_str(struct buf *b, const char *s)
{
    buf_put(b, s, strlen(s));
}
static inline void buf_put_u8(struct buf *b, uint8_t v)
{
    *buf_reserve(b, 1) = v;
    b->len += 1;
}
static inline void buf_put_be16(struct buf *b, uint16_t v)
{
    be16_put(buf_reserve(b, 2), v);
    b->len += 2;
}
static inline void buf_put_be32(struct buf *b, uint32_t v)
{
    be32_put(buf_reserve(b, 4), v);
    b->len += 4;
}
static inline void buf_put_be64(struct buf *b, uint64_t v)
{
    be64_put(buf_reserve(b, 8), v);
    b->len += 8;
}
static inline void buf_put_uvarint(struct buf *b, uint64_t v)
{
    b->len += uvarint_put(buf_reserve(b, VARINT_MAX), v);
}
static inline void buf_put_varint(struct buf *b, int64_t v)
{
    b->len += varint_put(buf_reserve(b, VARINT_MAX), v);
}
/* A length (uvarint) and the bytes. */
static inline void buf_put_lslice(struct buf *b, struct slice s)
{
    buf_put_uvarint(b, s.len);
    buf_put_slice(b, s);
}
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Drops the first n bytes, moving the rest to the front. */
void buf_consume(struct buf *b, size_t n);

/* A cursor over borrowed bytes that remembers having run out: read on, check `bad` once at the end. Reads past
 * the end give zeros. */
struct reader {
    const uint8_t *p;
    const uint8_t *end;
    int bad;
};

extern const uint8_t reader_nothing[]; /* what a reader over no memory points at */

static inline struct reader reader_of(struct slice s)
{
    if (s.data == NULL) /* arithmetic on it, even of 0, is undefined */
        s.data = reader_nothing;
    return (struct reader){s.data, s.data + s.len, 0};
}
static inline size_t reader_left(const struct reader *r)
{
    return (size_t)(r->end - r->p);
}
static inline const uint8_t *reader_take(struct reader *r, size_t n)
{
    const uint8_t *p = r->p;

    if (reader_left(r) < n) {
        r->bad = 1;
        r->p = r->end;
        return NULL;
    }
    r->p += n;
    return p;
}
static inline uint8_t reader_u8(struct reader *r)
{
    const uint8_t *p = reader_take(r, 1);
    return p == NULL ? 0 : *p;
}
static inline uint16_t reader_be16(struct reader *r)
{
    const uint8_t *p = reader_take(r, 2);
    return p == NULL ? 0 : be16_get(p);
}
static inline uint32_t reader_be32(struct reader *r)
{
    const uint8_t *p = reader_take(r, 4);
    return p == NULL ? 0 : be32_get(p);
}
static inline uint64_t reader_be64(struct reader *r)
{
    const uint8_t *p = reader_take(r, 8);
    return p == NULL ? 0 : be64_get(p);
}
static inline uint64_t reader_uvarint(struct reader *r)
{
    uint64_t v = 0;
    size_t n = uvarint_get(r->p, r->end, &v);

    if (n == 0) {
        r->bad = 1;
        r->p = r->end;
        return 0;
    }
    r->p += n;
    return v;
}
static inline int64_t reader_varint(struct reader *r)
{
    return zigzag_decode(reader_uvarint(r));
}
static inline struct slice reader_slice(struct reader *r, size_t n)
{
    const uint8_t *p = reader_take(r, n);
    return p == NULL ? SLICE_NONE : slice_of(p, n);
}
static inline struct slice reader_lslice(struct reader *r)
{
    uint64_t n = reader_uvarint(r);

    if (n > reader_left(r)) {
        r->bad = 1;
        r->p = r->end;
        return SLICE_NONE;
    }
    return reader_slice(r, (size_t)n);
}

#endif
