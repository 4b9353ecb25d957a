/* Hashes. hash_bytes is keyed with a per-process secret, so that a peer cannot aim at one bucket: with rounds of AES where the
 * processor has them, else SipHash-1-3. It differs from one process to the next and is never stored. The others are what
 * protocols and placement prescribe. Pure but for the key; any thread. */
#ifndef GM_BASE_HASH_H
#define GM_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/slice.h"

void hash_seed(const uint8_t key[16]); /* once, before threads; tests seed with zeros */
uint64_t hash_bytes(const void *data, size_t len);
uint64_t hash_bytes_portable(const void *data, size_t len); /* the same without special instructions, other values; for tests */
uint64_t siphash13(const void *data, size_t len, uint64_t k0, uint64_t k1);
uint32_t fnv1a32(const void *data, size_t len);          /* offset basis 2166136261 */
uint32_t fnv1a32_more(uint32_t h, const void *data, size_t len);
uint16_t crc16_xmodem(const void *data, size_t len);     /* Redis Cluster's key hash */
uint16_t crc16_xmodem_portable(const void *data, size_t len); /* the same without special instructions; for tests */
uint32_t murmur2(const void *data, size_t len);          /* Kafka's default partitioner */

#endif
