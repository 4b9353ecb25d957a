#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/rand.h"

Test(crc32c, check_value_of_rfc3720)
{
    uint8_t zeros[32] = {0};

    cr_assert_eq(crc32c(0, "123456789", 9), 0xe3069283u);
    cr_assert_eq(crc32c(0, zeros, sizeof(zeros)), 0x8a9136aau);
}

Test(crc32c, hardware_and_table_agree_at_every_length_and_split)
{
    struct rand r;
    uint8_t data[8192];

    rand_seed(&r, 1);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)rand_u64(&r);
    for (size_t n = 0; n < sizeof(data); n += 1 + n / 16) {
        uint32_t want = crc32c_portable(0, data, n);

        cr_assert_eq(crc32c(0, data, n), want);
        cr_assert_eq(crc32c(crc32c(0, data, n / 3), data + n / 3, n - n / 3), want);
    }
}

Test(hash, published_values)
{
    cr_assert_eq(crc16_xmodem("123456789", 9), 0x31c3);
    cr_assert_eq(fnv1a32("a", 1), 0xe40c292cu);
    cr_assert_eq((int32_t)murmur2("21", 2), -973932308, "Kafka's UtilsTest");
    cr_assert_eq((int32_t)murmur2("foobar", 6), -790332482, "Kafka's UtilsTest");
}

Test(hash, crc16_by_instruction_and_by_table_agree_at_every_length)
{
    struct rand r;
    uint8_t data[300];

    rand_seed(&r, 2);
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < sizeof(data); i++)
            data[i] = (uint8_t)rand_u64(&r);
        for (size_t n = 0; n < sizeof(data); n++)
            cr_assert_eq(crc16_xmodem(data, n), crc16_xmodem_portable(data, n), "%zu bytes", n);
    }
}

Test(rand, below_stays_below)
{
    struct rand r;

    rand_seed(&r, 7);
    for (int i = 0; i < 10000; i++)
        cr_assert_lt(rand_below(&r, 7), 7);
}

/* What a table needs of a hash, whichever of the two this processor runs. */
static void check_keyed_hash(uint64_t (*hash)(const void *data, size_t len))
{
    enum { BUCKETS = 256, KEYS = 100000 };
    static unsigned low[BUCKETS], high[BUCKETS];
    const uint8_t one[16] = {1}, two[16] = {2};
    uint8_t data[70];
    uint64_t before;

    memset(data, 'x', sizeof(data));
    for (size_t n = 0; n < sizeof(data); n++) {
        hash_seed(one);
        before = hash(data, n);
        cr_assert_eq(hash(data, n), before);
        if (n > 0)
            cr_assert_neq(hash(data, n - 1), before, "%zu bytes, one fewer", n);
        for (size_t i = 0; i < n * 8; i++) {
            data[i / 8] ^= (uint8_t)(1u << i % 8);
            cr_assert_neq(hash(data, n), before, "bit %zu of %zu bytes", i, n);
            data[i / 8] ^= (uint8_t)(1u << i % 8);
        }
        hash_seed(two);
        cr_assert_neq(hash(data, n), before, "another secret, %zu bytes", n);
    }
    memset(low, 0, sizeof(low));
    memset(high, 0, sizeof(high));
    for (unsigned i = 0; i < KEYS; i++) {
        char key[24];
        uint64_t h = hash(key, (size_t)sprintf(key, "key:%012u", i));

        low[h % BUCKETS]++;
        high[h >> 56]++;
    }
    /* 390.6 expected, standard deviation 19.7 */
    for (unsigned i = 0; i < BUCKETS; i++) {
        cr_assert(low[i] > 270 && low[i] < 510, "bucket %u by the lowest byte: %u", i, low[i]);
        cr_assert(high[i] > 270 && high[i] < 510, "bucket %u by the highest byte: %u", i, high[i]);
    }
}

Test(hash, every_bit_of_key_and_secret_counts_and_keys_spread)
{
    check_keyed_hash(hash_bytes);
    check_keyed_hash(hash_bytes_portable);
}
