#include <criterion/criterion.h>
#include <stdio.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/rand.h"
#include "cluster/topology/state.h"

static void apply(struct topo_state *s, struct buf *command, struct topo_result *ret)
{
    cr_assert_eq(topo_state_apply(s, buf_slice(command), ret), 0);
    buf_clear(command);
    topo_retired_free(&s->retired);
}

static void formed(struct topo_state *s)
{
    struct buf b = {0};
    struct topo_result r;

    topo_cmd_form(&b, (const uint8_t *)"0123456789abcdef", 32, 1, (const uint8_t *)"salt");
    apply(s, &b, &r);
    cr_assert_eq(r.err, 0);
    buf_fini(&b);
}

/* The definition, by recursion: `*` one word, `#` any number (AMQP 0-9-1, 3.1.3.3). */
static bool naive(const char *p, const char *k)
{
    size_t pw = strcspn(p, "."), kw = strcspn(k, ".");
    bool p_last = p[pw] == '\0', k_last = k[kw] == '\0';

    if (pw == 1 && p[0] == '#') {
        for (const char *rest = k;;) {
            if (p_last)
                return true;
            if (naive(p + pw + 1, rest))
                return true;
            size_t w = strcspn(rest, ".");
            if (rest[w] == '\0')
                /* all words eaten: what is left of the pattern must accept nothing */
                return strspn(p + pw + 1, "#.") == strlen(p + pw + 1);
            rest += w + 1;
        }
    }
    if (!(pw == 1 && p[0] == '*') && (pw != kw || memcmp(p, k, pw) != 0))
        return false;
    if (p_last && k_last)
        return true;
    if (p_last)
        return false;
    if (k_last)
        return strspn(p + pw + 1, "#.") == strlen(p + pw + 1);
    return naive(p + pw + 1, k + kw + 1);
}

static bool collect(const struct topo_binding *x, void *arg)
{
    unsigned *seen = arg;
    unsigned id;

    cr_assert_eq(sscanf((const char *)x->args.data, "%u", &id), 1);
    seen[id]++;
    return true;
}

static void random_words(struct rand *r, const char *const *words, unsigned n, char *out)
{
    unsigned count = 1 + (unsigned)rand_below(r, 4);

    out[0] = '\0';
    for (unsigned i = 0; i < count; i++) {
        if (i > 0)
            strcat(out, ".");
        strcat(out, words[rand_below(r, n)]);
    }
}

#define BINDINGS 300

Test(match, topic_routing_agrees_with_its_definition)
{
    static const char *const pattern_words[] = {"a", "b", "ab", "*", "#"}, *const key_words[] = {"a", "b", "ab", "c"};
    static char patterns[BINDINGS][64];
    struct topo_state s = {0};
    struct buf b = {0};
    struct topo_result res;
    uint64_t exchange, queue;
    struct rand r;

    formed(&s);
    rand_seed(&r, 3);
    exchange = topo_exchange_find(&s.v, slice_str("/"), slice_str("amq.topic"))->id;
    topo_cmd_queue_declare(&b, slice_str("/"), slice_str("q"), true, false, false, 0, 0, SLICE_NONE);
    apply(&s, &b, &res);
    queue = res.id;
    for (unsigned i = 0; i < BINDINGS; i++) {
        char id[16];

        random_words(&r, pattern_words, 5, patterns[i]);
        snprintf(id, sizeof(id), "%u ", i);
        topo_cmd_bind(&b, exchange, TOPO_TO_QUEUE, queue, slice_str(patterns[i]), slice_str(id));
        apply(&s, &b, &res);
        cr_assert_eq(res.err, 0);
    }
    for (int round = 0; round < 500; round++) {
        unsigned seen[BINDINGS] = {0};
        char key[64];

        random_words(&r, key_words, 4, key);
        topo_match_topic(&s.v, exchange, slice_str(key), collect, seen);
        for (unsigned i = 0; i < BINDINGS; i++)
            cr_assert_eq(seen[i], naive(patterns[i], key), "pattern %s key %s: %u", patterns[i], key, seen[i]);
    }
    buf_fini(&b);
    topo_state_free(&s);
}

static bool count(const struct topo_binding *x, void *arg)
{
    (void)x;
    ++*(unsigned *)arg;
    return true;
}

Test(match, hostile_patterns_and_odd_keys)
{
    struct topo_state s = {0};
    struct buf b = {0};
    struct topo_result res;
    uint64_t exchange, queue;
    char hostile[256], key[256];
    unsigned n = 0;

    formed(&s);
    exchange = topo_exchange_find(&s.v, slice_str("/"), slice_str("amq.topic"))->id;
    topo_cmd_queue_declare(&b, slice_str("/"), slice_str("q"), true, false, false, 0, 0, SLICE_NONE);
    apply(&s, &b, &res);
    queue = res.id;
    for (size_t i = 0; i < 255; i++) {
        hostile[i] = i % 2 == 0 ? '#' : '.';
        key[i] = i % 2 == 0 ? 'a' : '.';
    }
    hostile[254] = 'z'; /* never matches: the walk must still end soon */
    topo_cmd_bind(&b, exchange, TOPO_TO_QUEUE, queue, slice_of(hostile, 255), SLICE_NONE);
    apply(&s, &b, &res);
    topo_cmd_bind(&b, exchange, TOPO_TO_QUEUE, queue, slice_str(""), SLICE_NONE);
    apply(&s, &b, &res);
    topo_cmd_bind(&b, exchange, TOPO_TO_QUEUE, queue, slice_of("a\0b", 3), SLICE_NONE);
    apply(&s, &b, &res);
    topo_match_topic(&s.v, exchange, slice_of(key, 255), count, &n);
    cr_assert_eq(n, 0);
    topo_match_topic(&s.v, exchange, slice_str(""), count, &n);
    cr_assert_eq(n, 1, "the empty key matches the empty pattern");
    topo_match_topic(&s.v, exchange, slice_of("a\0b", 3), count, &n);
    cr_assert_eq(n, 2, "bytes that the encoding escapes are matched as they are");
    topo_match_direct(&s.v, exchange, slice_of("a\0b", 3), count, &n);
    cr_assert_eq(n, 3);
    buf_fini(&b);
    topo_state_free(&s);
}
