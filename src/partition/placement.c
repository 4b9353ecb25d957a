/* Who owns what: ARCHITECTURE.md's table as functions. */
#include "base/hash.h"
#include "partition/partition.h"

/* Redis Cluster specification, "Hash tags": what stands between the first { and the first } behind it is hashed, if it is not empty. */
uint32_t placement_slot(struct slice key)
{
    const uint8_t *open = key.len == 0 ? NULL : memchr(key.data, '{', key.len);

    if (open != NULL) {
        const uint8_t *end = key.data + key.len, *close = memchr(open + 1, '}', (size_t)(end - open - 1));

        if (close != NULL && close != open + 1)
            return crc16_xmodem(open + 1, (size_t)(close - open - 1)) & 16383;
    }
    return crc16_xmodem(key.data, key.len) & 16383;
}

uint32_t placement_of_slot(uint32_t slot, uint32_t partitions)
{
    return slot * partitions / 16384;
}

uint32_t placement_of_key(struct slice key, uint32_t partitions)
{
    return placement_of_slot(placement_slot(key), partitions);
}

uint32_t placement_of_queue(struct slice vhost, struct slice name, uint32_t partitions)
{
    uint32_t h = fnv1a32(vhost.data, vhost.len);

    h = fnv1a32_more(h, "/", 1);
    return fnv1a32_more(h, name.data, name.len) % partitions;
}

uint32_t placement_of_topic(struct slice topic, uint32_t index, uint32_t partitions)
{
    return (uint32_t)(((uint64_t)fnv1a32(topic.data, topic.len) + index) % partitions);
}

uint32_t placement_of_group(struct slice id, uint32_t partitions)
{
    return fnv1a32(id.data, id.len) % partitions;
}
