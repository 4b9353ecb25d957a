/* Integers on disk and wire: big endian unless the name says le; varints are Kafka's and protobuf's (7 bits a byte,
 * least significant first; zigzag for signed). Pure, unaligned, any thread. */
#ifndef GM_BASE_BYTES_H
#define GM_BASE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t be16_get(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return __builtin_bswap16(v);
}
static inline uint32_t be32_get(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return __builtin_bswap32(v);
}
static inline uint64_t be64_get(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return __builtin_bswap64(v);
}
static inline void be16_put(void *p, uint16_t v)
{
    v = __builtin_bswap16(v);
    memcpy(p, &v, sizeof(v));
}
static inline void be32_put(void *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof(v));
}
static inline void be64_put(void *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof(v));
}

#define VARINT_MAX 10 /* bytes of the longest 64-bit varint */

/* Writes v at p (room for VARINT_MAX); returns the bytes written. */
static inline size_t uvarint_put(uint8_t *p, uint64_t v)
{
    size_t n = 0;

    while (v >= 0x80) {
        p[n++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    p[n++] = (uint8_t)v;
    return n;
}

static inline size_t uvarint_len(uint64_t v)
{
    return 1 + (size_t)(63 - __builtin_clzll(v | 1)) / 7;
}

/* Reads one at p, not beyond end; returns the bytes read, 0 when truncated or longer than 10 bytes. */
static inline size_t uvarint_get(const uint8_t *p, const uint8_t *end, uint64_t *ret)
{
    uint64_t v = 0;
    size_t n = 0;

    while (p + n < end && n < VARINT_MAX) {
        uint8_t b = p[n];

        if (n == 9 && b > 1)
            return 0;
        v |= (uint64_t)(b & 0x7f) << (7 * n);
        n++;
        if (!(b & 0x80)) {
            *ret = v;
            return n;
        }
    }
    return 0;
}

static inline uint64_t zigzag_encode(int64_t v)
{
    return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);
}
static inline int64_t zigzag_decode(uint64_t v)
{
    return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}
static inline size_t varint_put(uint8_t *p, int64_t v)
{
    return uvarint_put(p, zigzag_encode(v));
}
static inline size_t varint_len(int64_t v)
{
    return uvarint_len(zigzag_encode(v));
}
static inline size_t varint_get(const uint8_t *p, const uint8_t *end, int64_t *ret)
{
    uint64_t u;
    size_t n = uvarint_get(p, end, &u);

    if (n != 0)
        *ret = zigzag_decode(u);
    return n;
}

#endif
