/* CRC32C (Castagnoli), the checksum of record batches. In hardware where the processor has it, three interleaved
 * streams for long inputs (P20). Any thread. */
#ifndef GM_BASE_CRC32C_H
#define GM_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continues from `crc` (0 to begin). */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);
/* The table-driven version, for processors without the instruction and for the test that compares. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len);

#endif
