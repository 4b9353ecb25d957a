#include <criterion/criterion.h>

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
