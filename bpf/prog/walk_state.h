/* What a walk keeps between the functions it is made of, and the record that it writes.
 *
 * There is one per CPU and kind of program, for a tick may come in the middle of another program's walk. It lies in an
 * array of all of them (element: cpu * PYRITE_CONTEXTS + context) and not in a per-CPU map, whose values may have no more
 * than 32 KiB, and whose lookup is a call on kernels before 6.10. The functions hand each other the index.
 */
#ifndef PYRITE_WALK_STATE_H
#define PYRITE_WALK_STATE_H

#include "abi.h"
#include "helpers.h"

enum {
	MAX_FRAMES = PYRITE_MAX_KERNEL_FRAMES + PYRITE_MAX_USER_FRAMES,
	/* Serves some ten frames of usual size by one read. */
	WINDOW_BYTES = 512,
	MAX_RAW_REGISTERS = 34,
	KNOWN_PROCESSES = 8,
	TRAIL_LENGTH = 2048,
	TRAIL_INDEX_BITS = 12,
};

/* What was found at an address, so that it is searched once. A generation is never used again, so a footprint can be
 * outdated but never wrong. */
struct footprint {
	__u64 pc;
	__u32 generation;
	__u32 action; /* see rule.h */
};

/* What `processes` said of a process when its stamp was this one; tgid 0: nothing. */
struct known_process {
	__u64 stamp;
	__u64 start_boot_ns;
	__u32 tgid;
	__u32 generation;
	__u32 mappings;
	__u32 mapping_root;
};

struct walk {
	/* Registers of the frame that is looked at. */
	__u64 ip;
	__u64 sp;
	__u64 fp;
	__u64 lr; /* on x86_64 only what a rule puts there */
	/* Where `window` was read from, and how many of its bytes can start a word. */
	__u64 window_start;
	__u32 window_reach;
	/* The process's mappings; generation 0: not known. */
	__u32 generation;
	__u32 mappings;
	__u32 mapping_root;
	/* Index of the next frame among all frames of the record, and where it has to stop. */
	__u32 next_frame;
	__u32 frame_limit;
	/* Where the next footprint is to be put, and where the walk is expected to step next. */
	__u32 trail_end;
	__u32 trail_next;
	/* The frame is the leaf, or was interrupted by a signal: `ip` is the very instruction, all registers are known. */
	__u8 exact;
	/* Whether `registers` holds those of the exact frame. */
	__u8 registers_read;
	/* Whether `copy` says where a copy of the stack is to start. */
	__u8 copy_wanted;
	/* `sp` is no more than a lower bound of SP. */
	__u8 sp_lost;
	__u8 reserved[4];
	struct known_process known[KNOWN_PROCESSES];
	/* The mapping that was found last. */
	struct pyrite_mapping mapping;
	/* The seconds of the budget of copies: when this one began, and what it has used. */
	__u64 copies_since_ns;
	__u32 copies;
	/* Since it was last looked how full the ring is. */
	__u32 sent_bytes;
	__u8 window[WINDOW_BYTES + sizeof(__u64)];

	/* The record, as it is sent. */
	struct pyrite_sample_header header;
	__u64 frames[MAX_FRAMES];
	/* Behind the frames there are, which may be fewer: the copy's head and its bytes. */
	__u8 behind_frames[sizeof(struct pyrite_stack_copy) + PYRITE_MAX_COPY_BYTES];

	struct pyrite_stack_copy copy;
	__u64 registers[PYRITE_AARCH64_REGISTERS]; /* by DWARF number */
	__u64 raw_registers[MAX_RAW_REGISTERS]; /* as the kernel keeps them */
	/* Footprints in the order in which they were made, the oldest overwritten, and where the last of each hash is. */
	struct footprint trail[TRAIL_LENGTH];
	__u16 trail_index[1 << TRAIL_INDEX_BITS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	/* The loader makes it PYRITE_CONTEXTS for each possible CPU. */
	__uint(max_entries, PYRITE_CONTEXTS);
	__type(key, __u32);
	__type(value, struct walk);
} walks SEC(".maps");

static __always_inline __u32 walk_slot(enum pyrite_context context)
{
	return bpf_get_smp_processor_id() * PYRITE_CONTEXTS + context;
}

/* Null only where the loader made too few. */
static __always_inline struct walk *walk_at(__u32 slot)
{
	return bpf_map_lookup_elem(&walks, &slot);
}

#endif
