#include "cluster/bus/wire.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/err.h"

/* ---- frames ---- */

int frame_decode(const uint8_t *data, size_t len, size_t max, struct frame *ret, size_t *ret_used)
{
    size_t size;

    if (len < 4) {
        *ret_used = FRAME_HEADER;
        return ERR_MORE;
    }
    size = (size_t)be32_get(data);
    if (size > max - 4)
        return ERR_TOO_LARGE;
    if (size < FRAME_AFTER_LENGTH)
        return ERR_MALFORMED;
    size += 4;
    *ret_used = size;
    if (len < size)
        return ERR_MORE;
    if (be32_get(data + 4) != crc32c(0, data + 8, size - 8))
        return ERR_CORRUPT;
    *ret = (struct frame){be16_get(data + 8), be16_get(data + 10), be64_get(data + 12), slice_of(data + FRAME_HEADER, size - FRAME_HEADER)};
    return (ret->flags & ~FRAME_FLAGS) != 0 ? ERR_MALFORMED : 0;
}

void frame_header(uint8_t out[FRAME_HEADER], uint16_t type, uint16_t flags, uint64_t id, struct slice first, struct slice second)
{
    uint32_t sum;

    be32_put(out, (uint32_t)(FRAME_AFTER_LENGTH + first.len + second.len));
    be16_put(out + 8, type);
    be16_put(out + 10, flags);
    be64_put(out + 12, id);
    sum = crc32c(0, out + 8, FRAME_HEADER - 8);
    if (first.len != 0)
        sum = crc32c(sum, first.data, first.len);
    if (second.len != 0)
        sum = crc32c(sum, second.data, second.len);
    be32_put(out + 4, sum);
}

void frame_put(struct buf *out, uint16_t type, uint16_t flags, uint64_t id, struct slice payload)
{
    frame_header(buf_reserve(out, FRAME_HEADER + payload.len), type, flags, id, payload, SLICE_NONE);
    buf_advance(out, FRAME_HEADER);
    buf_put_slice(out, payload);
}

/* ---- hello ---- */

void hello_put(struct buf *out, const struct hello *h)
{
    buf_put_be16(out, h->version);
    buf_put_u8(out, h->channel);
    buf_put(out, h->cluster_id, sizeof(h->cluster_id));
    buf_put(out, h->uuid, sizeof(h->uuid));
    buf_put_be64(out, h->process);
    buf_put_be32(out, h->node_id);
    buf_put_be64(out, h->node_epoch);
    buf_put_be32(out, h->total_partitions);
    buf_put_be32(out, h->level_min);
    buf_put_be32(out, h->level_max);
    buf_put_be32(out, h->heartbeat_ms);
    buf_put(out, h->nonce, sizeof(h->nonce));
    buf_put_lslice(out, slice_str(h->address));
}

static void get_bytes(struct reader *r, void *to, size_t n)
{
    const uint8_t *p = reader_take(r, n);

    if (p != NULL)
        memcpy(to, p, n);
}

int hello_get(struct slice payload, struct hello *ret)
{
    struct reader r = reader_of(payload);
    struct slice address;

    memset(ret, 0, sizeof(*ret));
    ret->version = reader_be16(&r);
    ret->channel = reader_u8(&r);
    get_bytes(&r, ret->cluster_id, sizeof(ret->cluster_id));
    get_bytes(&r, ret->uuid, sizeof(ret->uuid));
    ret->process = reader_be64(&r);
    ret->node_id = reader_be32(&r);
    ret->node_epoch = reader_be64(&r);
    ret->total_partitions = reader_be32(&r);
    ret->level_min = reader_be32(&r);
    ret->level_max = reader_be32(&r);
    ret->heartbeat_ms = reader_be32(&r);
    get_bytes(&r, ret->nonce, sizeof(ret->nonce));
    address = reader_lslice(&r);
    if (r.bad || ret->version == 0 || ret->channel > 1 || address.len > HELLO_ADDRESS_MAX || (address.len != 0 && memchr(address.data, 0, address.len) != NULL) ||
        (ret->version <= BUS_VERSION && reader_left(&r) != 0) || ret->level_min > ret->level_max)
        return ERR_MALFORMED;
    for (size_t i = 0; i < address.len; i++) { /* it is shown to people */
        if (address.data[i] <= ' ' || address.data[i] > '~' || address.data[i] == '"')
            return ERR_MALFORMED;
    }
    if (address.len != 0)
        memcpy(ret->address, address.data, address.len);
    return 0;
}

void hello_proof(const char *secret, bool acceptor, struct slice dialler, struct slice accepted, uint8_t ret[PROOF_SIZE])
{
    struct buf text = {0};
    unsigned n = PROOF_SIZE;

    buf_put_str(&text, acceptor ? "gomsg bus acceptor" : "gomsg bus dialler");
    buf_put_be32(&text, (uint32_t)dialler.len);
    buf_put_slice(&text, dialler);
    buf_put_be32(&text, (uint32_t)accepted.len);
    buf_put_slice(&text, accepted);
    CHECK(HMAC(EVP_sha256(), secret, (int)strlen(secret), text.data, text.len, ret, &n) != NULL && n == PROOF_SIZE);
    buf_fini(&text);
}

bool proof_equal(const uint8_t a[PROOF_SIZE], struct slice b)
{
    return b.len == PROOF_SIZE && CRYPTO_memcmp(a, b.data, PROOF_SIZE) == 0;
}

/* ---- refusals ---- */

const char *refusal_text(unsigned code)
{
    switch (code) {
#define X(name, number, text)                                                                                                                  \
    case number:                                                                                                                               \
        return text;
        BUS_REFUSALS(X)
#undef X
    default:
        return "for a reason that this build does not know";
    }
}

static bool is_zero(const uint8_t id[16])
{
    static const uint8_t zero[16];

    return memcmp(id, zero, sizeof(zero)) == 0;
}

enum bus_refusal hello_judge(const struct hello *mine, const struct hello *theirs)
{
    if (theirs->version < BUS_VERSION)
        return REFUSAL_VERSION;
    if (memcmp(mine->uuid, theirs->uuid, sizeof(mine->uuid)) == 0)
        return REFUSAL_OURSELVES;
    if (mine->channel != theirs->channel || is_zero(theirs->uuid))
        return REFUSAL_MALFORMED;
    if (!is_zero(mine->cluster_id) && !is_zero(theirs->cluster_id) && memcmp(mine->cluster_id, theirs->cluster_id, sizeof(mine->cluster_id)) != 0)
        return REFUSAL_CLUSTER;
    if (mine->total_partitions != theirs->total_partitions)
        return REFUSAL_PARTITIONS;
    if (mine->level_min > theirs->level_max || theirs->level_min > mine->level_max)
        return REFUSAL_LEVEL;
    if (mine->node_id != 0 && mine->node_id == theirs->node_id)
        return REFUSAL_DISK;
    return REFUSAL_NONE;
}
