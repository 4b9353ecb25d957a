/* Fetch sessions (KIP-227): the partitions of a consumer, kept between its requests. A session belongs to its
 * connection: a client that comes back over another one is told that its session is unknown and begins a new
 * one, which the protocol foresees. */
#include "protocols/kafka/fetch.h"

#include "base/check.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"

struct fetch_session *fetch_session_new(struct kafka_session *s)
{
    struct fetch_session *fs = mem_zalloc(sizeof(*fs));

    fetch_init(&fs->fetch);
    fs->fetch.session = fs;
    do
        fs->id = atomic_fetch_add(&s->front->next_fetch_session, 1) & 0x7fffffff;
    while (fs->id == 0);
    fs->epoch = 1;
    return fs;
}

static uint32_t hash_of(const char *topic, size_t topic_len, const uint8_t uuid[16], int32_t index)
{
    uint64_t h = topic != NULL ? hash_bytes(topic, topic_len) : hash_bytes(uuid, 16);

    return (uint32_t)((h ^ (uint64_t)(uint32_t)index) * 0x9e3779b97f4a7c15u >> 32);
}

static uint32_t hash_of_part(const struct fetch_part *p)
{
    return hash_of(p->topic, p->topic == NULL ? 0 : strlen(p->topic), p->uuid, p->index);
}

struct fetch_part *fetch_session_find(struct fetch_session *fs, const struct kafka_topic_ref *topic,
                                      int32_t index)
{
    const char *name = topic->uuid != NULL ? NULL : (const char *)topic->name.data;

    if (fs->bucket_count == 0)
        return NULL;
    for (struct fetch_part *p =
             fs->buckets[hash_of(name, topic->name.len, topic->uuid, index) & (fs->bucket_count - 1)];
         p != NULL; p = p->next)
        if (p->index == index && (p->topic == NULL) == (name == NULL) &&
            (name != NULL ? slice_eq(slice_str(p->topic), topic->name)
                          : memcmp(p->uuid, topic->uuid, 16) == 0))
            return p;
    return NULL;
}

static void grow(struct fetch_session *fs)
{
    uint32_t was = fs->bucket_count;
    struct fetch_part **old = fs->buckets;

    fs->bucket_count = was == 0 ? 8 : was * 2;
    fs->buckets = mem_calloc(fs->bucket_count, sizeof(*fs->buckets));
    for (uint32_t i = 0; i < was; i++)
        for (struct fetch_part *p = old[i], *next; p != NULL; p = next) {
            struct fetch_part **slot = &fs->buckets[hash_of_part(p) & (fs->bucket_count - 1)];

            next = p->next;
            p->next = *slot;
            *slot = p;
        }
    mem_free(old);
}

void fetch_session_add(struct fetch_session *fs, struct fetch_part *p)
{
    struct fetch_part **slot;

    if (fs->fetch.part_count > fs->bucket_count)
        grow(fs);
    slot = &fs->buckets[hash_of_part(p) & (fs->bucket_count - 1)];
    p->next = *slot;
    *slot = p;
}

void fetch_session_remove(struct fetch_session *fs, struct fetch_part *p)
{
    for (struct fetch_part **at = &fs->buckets[hash_of_part(p) & (fs->bucket_count - 1)]; *at != NULL;
         at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            break;
        }
    fetch_part_free(p);
}
