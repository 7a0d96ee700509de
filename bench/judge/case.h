/* Stacks as they were at a tick: what `capture` writes, `judge` reads and the accuracy harness passes from one to the other.
 *
 * A stream of messages in the machine's byte order, each a multiple of 8 bytes:
 *
 *   struct message                    kind, and the length of what follows
 *   MAPPINGS: struct mapping_set      then the executable mappings as lines of /proc/PID/maps, padded with zeros
 *   STACK:    struct captured_stack   then `bytes` bytes of stack from the stack pointer on, padded with zeros
 *   LOST:     struct lost_records
 *
 * A mapping set comes before the first stack that names it; what was lost comes last.
 */
#ifndef PYRITE_CASE_H
#define PYRITE_CASE_H

#include <stdint.h>

enum message_kind { MESSAGE_MAPPINGS = 1, MESSAGE_STACK = 2, MESSAGE_LOST = 3 };

struct message {
	uint32_t kind; /* enum message_kind */
	uint32_t bytes; /* of what follows, padding included */
};

struct mapping_set {
	uint64_t id; /* counted from 1 */
	uint32_t tgid;
	uint32_t text_bytes; /* without the padding */
};

enum architecture { ARCHITECTURE_X86_64 = 1, ARCHITECTURE_AARCH64 = 2 };

enum { CASE_REGISTERS = 32 };

struct captured_stack {
	uint64_t id; /* counted from 1 */
	uint64_t mapping_set;
	uint64_t time_boot_ns;
	uint32_t tgid;
	uint32_t tid;
	uint32_t cpu;
	uint32_t architecture; /* enum architecture */
	uint64_t registers[CASE_REGISTERS]; /* by DWARF number: 0 to 15 of x86_64; x0 to x30 and sp of aarch64 */
	uint64_t ip;
	uint64_t bytes; /* of stack, without the padding */
};

/* What met a full ring: ticks of whatever process, and news of mappings. */
struct lost_records {
	uint64_t count;
};

#endif
