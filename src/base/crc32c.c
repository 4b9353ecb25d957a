/* Three independent streams hide the 3-cycle latency of the crc32 instruction; the partial results are joined by
 * advancing a CRC over a run of zeros, which is a linear map and so four table lookups (Adler's method). */
#include "base/crc32c.h"

#include <pthread.h>
#include <string.h>

#define POLY 0x82f63b78u
#define LANE 1024u /* bytes a stream and round */

static uint32_t table[8][256];
static uint32_t advance_lane[4][256]; /* a CRC advanced over LANE zero bytes */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint32_t gf2_times(const uint32_t *mat, uint32_t vec)
{
    uint32_t sum = 0;

    for (; vec != 0; vec >>= 1, mat++) {
        if (vec & 1)
            sum ^= *mat;
    }
    return sum;
}

static void gf2_square(uint32_t *square, const uint32_t *mat)
{
    for (int n = 0; n < 32; n++)
        square[n] = gf2_times(mat, mat[n]);
}

static void build_tables(void)
{
    uint32_t op[32], next[32];

    for (uint32_t n = 0; n < 256; n++) {
        uint32_t c = n;

        for (int k = 0; k < 8; k++)
            c = c & 1 ? POLY ^ (c >> 1) : c >> 1;
        table[0][n] = c;
    }
    for (uint32_t n = 0; n < 256; n++) {
        for (int k = 1; k < 8; k++)
            table[k][n] = table[0][table[k - 1][n] & 0xff] ^ (table[k - 1][n] >> 8);
    }
    /* The operator for one zero bit, squared up to LANE zero bytes (LANE is a power of two). */
    op[0] = POLY;
    for (int n = 1; n < 32; n++)
        op[n] = 1u << (n - 1);
    for (size_t bits = 1; bits < LANE * 8; bits *= 2) {
        gf2_square(next, op);
        memcpy(op, next, sizeof(op));
    }
    for (uint32_t n = 0; n < 256; n++) {
        for (int k = 0; k < 4; k++)
            advance_lane[k][n] = gf2_times(op, n << (8 * k));
    }
}

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len)
{
    const uint8_t *p = data;

    pthread_once(&once, build_tables);
    crc = ~crc;
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t w;

        memcpy(&w, p, 8);
        w ^= crc;
        crc = table[7][w & 0xff] ^ table[6][(w >> 8) & 0xff] ^ table[5][(w >> 16) & 0xff] ^
              table[4][(w >> 24) & 0xff] ^ table[3][(w >> 32) & 0xff] ^ table[2][(w >> 40) & 0xff] ^
              table[1][(w >> 48) & 0xff] ^ table[0][w >> 56];
    }
    for (; len > 0; p++, len--)
        crc = table[0][(crc ^ *p) & 0xff] ^ (crc >> 8);
    return ~crc;
}

#if defined(__x86_64__)
static uint32_t advance(uint32_t crc)
{
    return advance_lane[0][crc & 0xff] ^ advance_lane[1][(crc >> 8) & 0xff] ^
           advance_lane[2][(crc >> 16) & 0xff] ^ advance_lane[3][crc >> 24];
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const uint8_t *p, size_t len)
{
    uint64_t c0 = (uint32_t)~crc;

    while (len >= 3 * LANE) {
        uint64_t c1 = 0, c2 = 0;

        for (size_t i = 0; i < LANE; i += 8) {
            uint64_t w0, w1, w2;

            memcpy(&w0, p + i, 8);
            memcpy(&w1, p + LANE + i, 8);
            memcpy(&w2, p + 2 * LANE + i, 8);
            c0 = __builtin_ia32_crc32di(c0, w0);
            c1 = __builtin_ia32_crc32di(c1, w1);
            c2 = __builtin_ia32_crc32di(c2, w2);
        }
        c0 = advance(advance((uint32_t)c0) ^ (uint32_t)c1) ^ (uint32_t)c2;
        p += 3 * LANE;
        len -= 3 * LANE;
    }
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t w;

        memcpy(&w, p, 8);
        c0 = __builtin_ia32_crc32di(c0, w);
    }
    for (; len > 0; p++, len--)
        c0 = __builtin_ia32_crc32qi((uint32_t)c0, *p);
    return ~(uint32_t)c0;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) {
        if (len >= 3 * LANE)
            pthread_once(&once, build_tables);
        return crc32c_sse42(crc, data, len);
    }
#endif
    return crc32c_portable(crc, data, len);
}
