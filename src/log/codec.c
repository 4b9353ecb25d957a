/* The four codecs of Kafka batches. Whoever sends a compressed batch chooses how much comes out of it, so every decoder
 * stops at max_bytes (ERR_TOO_LARGE) and grows its output as it produces it, never by what a header claims.
 *
 * snappy comes in two shapes: librdkafka and Go clients send one raw block, Java clients the framing of xerial's
 * SnappyOutputStream (magic 82 "SNAPPY" 00, version be32, compatible be32, then blocks of be32 length + raw block). We read
 * both and write xerial's, which every client reads. lz4 is the LZ4 frame format (KIP-57), gzip may be several members. */
#include <lz4frame.h>
#include <snappy-c.h>
#include <stdbool.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "log/batch.h"

#define STEP (64u * 1024)         /* output grows by this at a time */
#define SNAPPY_BLOCK (32u * 1024) /* what xerial writes */

static const uint8_t xerial_magic[8] = {0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0};

/* Room for the next piece of output: 0 when the bound (which includes one byte too many, so that exceeding it shows) is reached. */
static size_t room_for(const struct buf *out, size_t start, size_t max_bytes)
{
    size_t used = out->len - start;

    return used > max_bytes ? 0 : MIN_OF((size_t)STEP, max_bytes + 1 - used);
}

static int gunzip(struct slice in, size_t max_bytes, struct buf *out)
{
    z_stream z = {0};
    size_t start = out->len;
    int err = 0, rc = Z_OK;

    if (inflateInit2(&z, 15 + 32) != Z_OK)
        return ERR_NOMEM;
    z.next_in = (Bytef *)in.data;
    z.avail_in = (uInt)in.len;
    while (err == 0) {
        size_t room = room_for(out, start, max_bytes);

        if (room == 0) {
            err = ERR_TOO_LARGE;
            break;
        }
        z.next_out = buf_reserve(out, room);
        z.avail_out = (uInt)room;
        rc = inflate(&z, Z_NO_FLUSH);
        buf_advance(out, room - z.avail_out);
        if (rc == Z_STREAM_END) {
            if (z.avail_in == 0)
                break;
            if (inflateReset(&z) != Z_OK)
                err = ERR_CORRUPT;
        } else if (rc != Z_OK) {
            err = ERR_CORRUPT;
        }
    }
    inflateEnd(&z);
    return err == 0 && out->len - start > max_bytes ? ERR_TOO_LARGE : err;
}

static int gzip(struct slice in, struct buf *out)
{
    z_stream z = {0};
    size_t bound;
    int rc;

    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return ERR_NOMEM;
    bound = deflateBound(&z, (uLong)in.len);
    z.next_in = (Bytef *)in.data;
    z.avail_in = (uInt)in.len;
    z.next_out = buf_reserve(out, bound);
    z.avail_out = (uInt)bound;
    rc = deflate(&z, Z_FINISH);
    buf_advance(out, bound - z.avail_out);
    deflateEnd(&z);
    return rc == Z_STREAM_END ? 0 : ERR_IO;
}

static int unsnappy_block(struct slice in, size_t max_bytes, struct buf *out)
{
    size_t n = 0, got;

    if (snappy_uncompressed_length((const char *)in.data, in.len, &n) != SNAPPY_OK)
        return ERR_CORRUPT;
    if (n > max_bytes)
        return ERR_TOO_LARGE;
    /* A snappy copy of 3 bytes makes at most 64: what claims more than that cannot be honest, and is not allocated. */
    if (n / 64 > in.len)
        return ERR_CORRUPT;
    if (n == 0) /* an empty buffer may have no memory to point at */
        return in.len == 1 ? 0 : ERR_CORRUPT;
    got = n;
    if (snappy_uncompress((const char *)in.data, in.len, (char *)buf_reserve(out, n), &got) != SNAPPY_OK || got != n)
        return ERR_CORRUPT;
    buf_advance(out, n);
    return 0;
}

static int unsnappy(struct slice in, size_t max_bytes, struct buf *out)
{
    struct reader r = reader_of(in);
    size_t start = out->len;

    if (in.len < 16 || memcmp(in.data, xerial_magic, sizeof(xerial_magic)) != 0)
        return unsnappy_block(in, max_bytes, out);
    reader_take(&r, 16);
    while (reader_left(&r) > 0) {
        uint32_t n = reader_be32(&r);
        struct slice block = reader_slice(&r, n);
        int err;

        if (r.bad)
            return ERR_CORRUPT;
        err = unsnappy_block(block, max_bytes - (out->len - start), out);
        if (err != 0)
            return err;
    }
    return 0;
}

static int snappy(struct slice in, struct buf *out)
{
    buf_put(out, xerial_magic, sizeof(xerial_magic));
    buf_put_be32(out, 1);
    buf_put_be32(out, 1);
    for (size_t at = 0; at < in.len; at += SNAPPY_BLOCK) {
        size_t n = MIN_OF(in.len - at, (size_t)SNAPPY_BLOCK), len = snappy_max_compressed_length(n);
        uint8_t *p = buf_reserve(out, 4 + len);

        if (snappy_compress((const char *)in.data + at, n, (char *)p + 4, &len) != SNAPPY_OK)
            return ERR_IO;
        be32_put(p, (uint32_t)len);
        buf_advance(out, 4 + len);
    }
    return 0;
}

static int unlz4(struct slice in, size_t max_bytes, struct buf *out)
{
    LZ4F_dctx *ctx;
    size_t start = out->len, at = 0;
    int err = 0;

    if (LZ4F_isError(LZ4F_createDecompressionContext(&ctx, LZ4F_VERSION)))
        return ERR_NOMEM;
    for (;;) {
        size_t room = room_for(out, start, max_bytes), src = in.len - at, made, hint;

        if (room == 0) {
            err = ERR_TOO_LARGE;
            break;
        }
        made = room;
        hint = LZ4F_decompress(ctx, buf_reserve(out, room), &made, in.data + at, &src, NULL);
        if (LZ4F_isError(hint)) {
            err = ERR_CORRUPT;
            break;
        }
        buf_advance(out, made);
        at += src;
        if (hint == 0 && at == in.len)
            break;
        if (src == 0 && made == 0) { /* cut short */
            err = ERR_CORRUPT;
            break;
        }
    }
    LZ4F_freeDecompressionContext(ctx);
    return err == 0 && out->len - start > max_bytes ? ERR_TOO_LARGE : err;
}

static int lz4(struct slice in, struct buf *out)
{
    LZ4F_preferences_t prefs = {.frameInfo = {.blockMode = LZ4F_blockIndependent, .blockSizeID = LZ4F_max64KB}};
    size_t bound = LZ4F_compressFrameBound(in.len, &prefs), n;

    n = LZ4F_compressFrame(buf_reserve(out, bound), bound, in.data, in.len, &prefs);
    if (LZ4F_isError(n))
        return ERR_IO;
    buf_advance(out, n);
    return 0;
}

static int unzstd(struct slice in, size_t max_bytes, struct buf *out)
{
    ZSTD_DStream *ctx = ZSTD_createDStream();
    ZSTD_inBuffer src = {in.data, in.len, 0};
    size_t start = out->len, left = 0;
    int err = 0;

    if (ctx == NULL)
        return ERR_NOMEM;
    for (;;) {
        ZSTD_outBuffer dst = {NULL, room_for(out, start, max_bytes), 0};
        size_t before = src.pos;

        if (dst.size == 0) {
            err = ERR_TOO_LARGE;
            break;
        }
        dst.dst = buf_reserve(out, dst.size);
        left = ZSTD_decompressStream(ctx, &dst, &src);
        if (ZSTD_isError(left)) {
            err = ERR_CORRUPT;
            break;
        }
        buf_advance(out, dst.pos);
        if (left == 0 && src.pos == src.size)
            break;
        if (src.pos == before && dst.pos == 0) {
            err = ERR_CORRUPT;
            break;
        }
    }
    ZSTD_freeDStream(ctx);
    return err == 0 && out->len - start > max_bytes ? ERR_TOO_LARGE : err;
}

static int zstd(struct slice in, struct buf *out)
{
    size_t bound = ZSTD_compressBound(in.len), n;

    n = ZSTD_compress(buf_reserve(out, bound), bound, in.data, in.len, 3);
    if (ZSTD_isError(n))
        return ERR_IO;
    buf_advance(out, n);
    return 0;
}

int batch_decompress(enum batch_codec codec, struct slice in, size_t max_bytes, struct buf *out)
{
    if (in.len > INT32_MAX)
        return ERR_TOO_LARGE;
    switch (codec) {
    case BATCH_NONE:
        if (in.len > max_bytes)
            return ERR_TOO_LARGE;
        buf_put_slice(out, in);
        return 0;
    case BATCH_GZIP:
        return gunzip(in, max_bytes, out);
    case BATCH_SNAPPY:
        return unsnappy(in, max_bytes, out);
    case BATCH_LZ4:
        return unlz4(in, max_bytes, out);
    case BATCH_ZSTD:
        return unzstd(in, max_bytes, out);
    }
    return ERR_UNSUPPORTED;
}

int batch_compress(enum batch_codec codec, struct slice in, struct buf *out)
{
    if (in.len > INT32_MAX)
        return ERR_TOO_LARGE;
    switch (codec) {
    case BATCH_NONE:
        buf_put_slice(out, in);
        return 0;
    case BATCH_GZIP:
        return gzip(in, out);
    case BATCH_SNAPPY:
        return snappy(in, out);
    case BATCH_LZ4:
        return lz4(in, out);
    case BATCH_ZSTD:
        return zstd(in, out);
    }
    return ERR_UNSUPPORTED;
}
