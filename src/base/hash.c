#include "base/hash.h"

#include <string.h>
#if defined(__x86_64__)
#include <wmmintrin.h>
#endif

static uint64_t seed0, seed1;

#define ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define SIPROUND                                                                                             \
    do {                                                                                                     \
        v0 += v1;                                                                                            \
        v1 = ROTL(v1, 13);                                                                                   \
        v1 ^= v0;                                                                                            \
        v0 = ROTL(v0, 32);                                                                                   \
        v2 += v3;                                                                                            \
        v3 = ROTL(v3, 16);                                                                                   \
        v3 ^= v2;                                                                                            \
        v0 += v3;                                                                                            \
        v3 = ROTL(v3, 21);                                                                                   \
        v3 ^= v0;                                                                                            \
        v2 += v1;                                                                                            \
        v1 = ROTL(v1, 17);                                                                                   \
        v1 ^= v2;                                                                                            \
        v2 = ROTL(v2, 32);                                                                                   \
    } while (0)

/* Aumasson and Bernstein, "SipHash: a fast short-input PRF", with one compression and three final rounds. */
uint64_t siphash13(const void *data, size_t len, uint64_t k0, uint64_t k1)
{
    const uint8_t *p = data, *end = p + (len & ~(size_t)7);
    uint64_t v0 = 0x736f6d6570736575u ^ k0, v1 = 0x646f72616e646f6du ^ k1;
    uint64_t v2 = 0x6c7967656e657261u ^ k0, v3 = 0x7465646279746573u ^ k1;
    uint64_t b = (uint64_t)len << 56;

    for (; p != end; p += 8) {
        uint64_t m;

        memcpy(&m, p, 8);
        v3 ^= m;
        SIPROUND;
        v0 ^= m;
    }
    for (size_t i = 0; i < (len & 7); i++)
        b |= (uint64_t)p[i] << (8 * i);
    v3 ^= b;
    SIPROUND;
    v0 ^= b;
    v2 ^= 0xff;
    SIPROUND;
    SIPROUND;
    SIPROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

uint64_t hash_bytes_portable(const void *data, size_t len)
{
    return siphash13(data, len, seed0, seed1);
}

#if defined(__x86_64__)
static __m128i aes_keys[4];

/* Up to 16 bytes into one block. Which of them stand where depends on the length, which is hashed too. */
static inline __m128i load_short(const uint8_t *p, size_t len)
{
    uint64_t low = 0, high = 0;

    if (len >= 8) {
        memcpy(&low, p, 8);
        memcpy(&high, p + len - 8, 8);
    } else if (len >= 4) {
        memcpy(&low, p, 4);
        memcpy(&high, p + len - 4, 4);
    } else if (len > 0) {
        low = p[0] | (uint64_t)p[len / 2] << 8 | (uint64_t)p[len - 1] << 16;
    }
    return _mm_set_epi64x((long long)high, (long long)low);
}

/* A block a time into the state, two rounds of AES under secret keys behind each, two more at the end; Go's runtime hashes the keys of
 * its maps in this way, too. A difference between two keys that is to vanish again must pass at least five active S-boxes from one block
 * to the next (Daemen and Rijmen, "The Design of Rijndael", 9.4), so that nobody aims at a bucket without knowing the keys. */
__attribute__((target("aes"))) static uint64_t hash_aes(const uint8_t *p, size_t len)
{
    __m128i state = _mm_xor_si128(aes_keys[0], _mm_cvtsi64_si128((long long)len));

    if (len <= 16) {
        state = _mm_xor_si128(state, load_short(p, len));
    } else {
        for (; len > 16; p += 16, len -= 16) {
            state = _mm_xor_si128(state, _mm_loadu_si128((const __m128i *)p));
            state = _mm_aesenc_si128(_mm_aesenc_si128(state, aes_keys[1]), aes_keys[2]);
        }
        /* The last 16 bytes: those that the loop had already stand in it again. */
        state = _mm_xor_si128(state, _mm_loadu_si128((const __m128i *)(p + len - 16)));
    }
    state = _mm_aesenc_si128(_mm_aesenc_si128(state, aes_keys[1]), aes_keys[2]);
    state = _mm_aesenc_si128(_mm_aesenc_si128(state, aes_keys[3]), aes_keys[0]);
    return (uint64_t)_mm_cvtsi128_si64(state);
}
#endif

void hash_seed(const uint8_t key[16])
{
    memcpy(&seed0, key, 8);
    memcpy(&seed1, key + 8, 8);
#if defined(__x86_64__)
    for (uint8_t i = 0; i < 8; i += 2) {
        uint8_t next = i + 1;

        aes_keys[i / 2] = _mm_set_epi64x((long long)siphash13(&i, 1, seed0, seed1), (long long)siphash13(&next, 1, seed0, seed1));
    }
#endif
}

uint64_t hash_bytes(const void *data, size_t len)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("aes"))
        return hash_aes(data, len);
#endif
    return hash_bytes_portable(data, len);
}

uint32_t fnv1a32_more(uint32_t h, const void *data, size_t len)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 16777619u;
    return h;
}

uint32_t fnv1a32(const void *data, size_t len)
{
    return fnv1a32_more(2166136261u, data, len);
}

uint16_t crc16_xmodem_portable(const void *data, size_t len)
{
    /* Polynomial 0x1021, a byte a step: every command of a key computes it. */
    static const uint16_t table[256] = {
        0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7, 0x8108, 0x9129, 0xa14a, 0xb16b,
        0xc18c, 0xd1ad, 0xe1ce, 0xf1ef, 0x1231, 0x0210, 0x3273, 0x2252, 0x52b5, 0x4294, 0x72f7, 0x62d6,
        0x9339, 0x8318, 0xb37b, 0xa35a, 0xd3bd, 0xc39c, 0xf3ff, 0xe3de, 0x2462, 0x3443, 0x0420, 0x1401,
        0x64e6, 0x74c7, 0x44a4, 0x5485, 0xa56a, 0xb54b, 0x8528, 0x9509, 0xe5ee, 0xf5cf, 0xc5ac, 0xd58d,
        0x3653, 0x2672, 0x1611, 0x0630, 0x76d7, 0x66f6, 0x5695, 0x46b4, 0xb75b, 0xa77a, 0x9719, 0x8738,
        0xf7df, 0xe7fe, 0xd79d, 0xc7bc, 0x48c4, 0x58e5, 0x6886, 0x78a7, 0x0840, 0x1861, 0x2802, 0x3823,
        0xc9cc, 0xd9ed, 0xe98e, 0xf9af, 0x8948, 0x9969, 0xa90a, 0xb92b, 0x5af5, 0x4ad4, 0x7ab7, 0x6a96,
        0x1a71, 0x0a50, 0x3a33, 0x2a12, 0xdbfd, 0xcbdc, 0xfbbf, 0xeb9e, 0x9b79, 0x8b58, 0xbb3b, 0xab1a,
        0x6ca6, 0x7c87, 0x4ce4, 0x5cc5, 0x2c22, 0x3c03, 0x0c60, 0x1c41, 0xedae, 0xfd8f, 0xcdec, 0xddcd,
        0xad2a, 0xbd0b, 0x8d68, 0x9d49, 0x7e97, 0x6eb6, 0x5ed5, 0x4ef4, 0x3e13, 0x2e32, 0x1e51, 0x0e70,
        0xff9f, 0xefbe, 0xdfdd, 0xcffc, 0xbf1b, 0xaf3a, 0x9f59, 0x8f78, 0x9188, 0x81a9, 0xb1ca, 0xa1eb,
        0xd10c, 0xc12d, 0xf14e, 0xe16f, 0x1080, 0x00a1, 0x30c2, 0x20e3, 0x5004, 0x4025, 0x7046, 0x6067,
        0x83b9, 0x9398, 0xa3fb, 0xb3da, 0xc33d, 0xd31c, 0xe37f, 0xf35e, 0x02b1, 0x1290, 0x22f3, 0x32d2,
        0x4235, 0x5214, 0x6277, 0x7256, 0xb5ea, 0xa5cb, 0x95a8, 0x8589, 0xf56e, 0xe54f, 0xd52c, 0xc50d,
        0x34e2, 0x24c3, 0x14a0, 0x0481, 0x7466, 0x6447, 0x5424, 0x4405, 0xa7db, 0xb7fa, 0x8799, 0x97b8,
        0xe75f, 0xf77e, 0xc71d, 0xd73c, 0x26d3, 0x36f2, 0x0691, 0x16b0, 0x6657, 0x7676, 0x4615, 0x5634,
        0xd94c, 0xc96d, 0xf90e, 0xe92f, 0x99c8, 0x89e9, 0xb98a, 0xa9ab, 0x5844, 0x4865, 0x7806, 0x6827,
        0x18c0, 0x08e1, 0x3882, 0x28a3, 0xcb7d, 0xdb5c, 0xeb3f, 0xfb1e, 0x8bf9, 0x9bd8, 0xabbb, 0xbb9a,
        0x4a75, 0x5a54, 0x6a37, 0x7a16, 0x0af1, 0x1ad0, 0x2ab3, 0x3a92, 0xfd2e, 0xed0f, 0xdd6c, 0xcd4d,
        0xbdaa, 0xad8b, 0x9de8, 0x8dc9, 0x7c26, 0x6c07, 0x5c64, 0x4c45, 0x3ca2, 0x2c83, 0x1ce0, 0x0cc1,
        0xef1f, 0xff3e, 0xcf5d, 0xdf7c, 0xaf9b, 0xbfba, 0x8fd9, 0x9ff8, 0x6e17, 0x7e36, 0x4e55, 0x5e74,
        0x2e93, 0x3eb2, 0x0ed1, 0x1ef0,
    };
    const uint8_t *p = data;
    uint16_t crc = 0;

    for (size_t i = 0; i < len; i++)
        crc = (uint16_t)(table[(crc >> 8) ^ p[i]] ^ (crc << 8));
    return crc;
}

#if defined(__x86_64__)
/* Barrett reduction of eight bytes a step: with A their polynomial, the CRC is A * x^16 mod P. The quotient is the upper half of
 * A * floor(x^80 / P), whose bit 64 is implied below. The register starts as zero, so that zeros may stand in front: the odd bytes
 * are taken first. (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction".) */
__attribute__((target("pclmul"))) static uint16_t crc16_clmul(const uint8_t *p, size_t len)
{
    const __m128i poly = _mm_set_epi64x(0x11021, (long long)UINT64_C(0x11303471a041b343));
    uint64_t crc, a = 0;
    size_t first = len & 7;

    for (size_t i = 0; i < first; i++)
        a = a << 8 | p[i];
    if (first == 0 && len != 0) {
        memcpy(&a, p, 8);
        a = __builtin_bswap64(a);
        first = 8;
    }
    for (p += first, len -= first;; p += 8, len -= 8) {
        __m128i v = _mm_cvtsi64_si128((long long)a), q;

        q = _mm_clmulepi64_si128(v, poly, 0x00);
        q = _mm_xor_si128(_mm_srli_si128(q, 8), v);
        crc = (uint64_t)_mm_cvtsi128_si64(_mm_clmulepi64_si128(q, poly, 0x10)) & 0xffff;
        if (len == 0)
            return (uint16_t)crc;
        memcpy(&a, p, 8);
        a = __builtin_bswap64(a) ^ crc << 48;
    }
}
#endif

uint16_t crc16_xmodem(const void *data, size_t len)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("pclmul"))
        return crc16_clmul(data, len);
#endif
    return crc16_xmodem_portable(data, len);
}

/* Austin Appleby's MurmurHash2 with Kafka's seed (org.apache.kafka.common.utils.Utils.murmur2). */
uint32_t murmur2(const void *data, size_t len)
{
    const uint32_t m = 0x5bd1e995;
    const uint8_t *p = data;
    uint32_t h = 0x9747b28cu ^ (uint32_t)len;

    for (; len >= 4; p += 4, len -= 4) {
        uint32_t k;

        memcpy(&k, p, 4);
        k *= m;
        k ^= k >> 24;
        k *= m;
        h = (h * m) ^ k;
    }
    switch (len) {
    case 3:
        h ^= (uint32_t)p[2] << 16;
        /* fall through */
    case 2:
        h ^= (uint32_t)p[1] << 8;
        /* fall through */
    case 1:
        h = (h ^ p[0]) * m;
    }
    h ^= h >> 13;
    h *= m;
    return h ^ (h >> 15);
}
