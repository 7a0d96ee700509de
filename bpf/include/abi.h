/* What the BPF programs and user space say to each other: fixed-width fields, explicit padding, nothing else.
 *
 * A sample record in the ring buffer:
 *
 *   struct pyrite_sample_header
 *   kernel_frames x u64, leaf first
 *   user_frames x u64, leaf first: the leaf's instruction, then addresses one byte before which the frame's instruction
 *   lies: return addresses or, of a frame that a signal interrupted and of the signal's trampoline, one more than theirs
 *   where flag PYRITE_SAMPLE_STACK_COPY is set: struct pyrite_stack_copy, then its `bytes` bytes of stack from `sp` on
 *
 * A user stack that the program could not finish carries a copy of the registers and of the top of the stack as they were
 * at the frame where it stopped; user space goes on from there by the same rules.
 */
#ifndef PYRITE_ABI_H
#define PYRITE_ABI_H

#include <linux/types.h>

#include "unwind.h"

#pragma clang diagnostic push
#pragma clang diagnostic error "-Wpadded"

enum pyrite_tick {
#define TICK(id, name, help) PYRITE_TICK_##id,
#include "reasons.def"
	PYRITE_TICK_COUNT
};

enum pyrite_stack {
#define STACK(id, name, help) PYRITE_STACK_##id,
#include "reasons.def"
	PYRITE_STACK_COUNT
};

enum {
	PYRITE_COMM_BYTES = 16,
	/* One below a power of two, so that a mask bounds the count for the verifier. The kernel's own limit is 127. */
	PYRITE_MAX_KERNEL_FRAMES = 127,
	PYRITE_MAX_USER_FRAMES = 1023,
	/* Most that is copied of a stack; whole pages but for the first. */
	PYRITE_MAX_COPY_BYTES = 16384,
	/* DWARF registers 0 to 15 of x86_64; x0 to x30 and sp of aarch64. */
	PYRITE_X86_64_REGISTERS = 16,
	PYRITE_AARCH64_REGISTERS = 32,
};

/* The kinds of programs that walk stacks. A tick may interrupt the other, so each has memory of its own on every CPU. */
enum pyrite_context {
	PYRITE_CONTEXT_TICK,
	PYRITE_CONTEXT_SWITCH,
	PYRITE_CONTEXTS
};

/* First word of every record: which struct follows. */
enum pyrite_record { PYRITE_RECORD_SAMPLE = 1 };

enum pyrite_sample_flag {
	PYRITE_SAMPLE_KERNEL_THREAD = 1,
	/* The tick interrupted user mode: the first user frame is the exact instruction. */
	PYRITE_SAMPLE_USER_MODE = 2,
	PYRITE_SAMPLE_STACK_COPY = 4,
	/* The process was met with the mappings of its parent, of which it is a fork that has not yet called exec. */
	PYRITE_SAMPLE_PARENT_MAPPINGS = 8,
	/* The thread is on its way out. Since 6.16 it still has its memory for a while after perf has told of its end. */
	PYRITE_SAMPLE_EXITING = 32,
};

/* Where the walk stopped. */
struct pyrite_stack_copy {
	/* Valid: sp, ip, fp and, on aarch64, lr; where `all_registers` is set, all. By DWARF number. */
	__u64 registers[PYRITE_AARCH64_REGISTERS];
	__u64 ip;
	/* How many of the record's user frames were found before this state: its own frame is the next one. */
	__u16 frames_before;
	__u8 all_registers;
	/* The stack pointer is no more than a lower bound, as behind a step by the frame pointer on aarch64. */
	__u8 sp_lost;
	__u8 reserved[4];
	__u64 bytes;
};

struct pyrite_sample_header {
	__u32 kind; /* enum pyrite_record */
	__u32 cpu;
	__u64 time_boot_ns;
	/* CLOCK_BOOTTIME at the start of the thread group's leader. */
	__u64 start_boot_ns;
	/* Id of the cgroup v2 directory. */
	__u64 cgroup_id;
	__u32 tgid;
	__u32 tid;
	__u16 kernel_frames;
	__u16 user_frames;
	__u8 kernel_stack; /* enum pyrite_stack */
	__u8 user_stack; /* enum pyrite_stack */
	__u8 flags; /* enum pyrite_sample_flag */
	__u8 reserved;
	/* How many of the user frames were found by the frame pointer for want of unwind information. */
	__u16 frame_pointer_frames;
	__u16 reserved2;
	/* Of the mapping set that the user stack was walked by; 0 where the process was not known. */
	__u32 generation;
	__u8 comm[PYRITE_COMM_BYTES];
};

/* Set once before load; read-only afterwards. */
struct pyrite_config {
	/* The drain is woken early once this much waits in the ring. */
	__u64 ring_wakeup_bytes;
	/* Length of one tick where the sampling clock is a timer; 0 where its rate adapts. */
	__u64 period_ns;
	/* Bits of a code address that are no part of it on aarch64 (pointer authentication); 0 on x86_64. */
	__u64 address_tag_mask;
	/* Stacks copied per second and CPU at most. */
	__u32 copies_per_second;
	/* For the accuracy harness: 1 has the kernel write its own sample of the same tick as well, where the event has a ring
	 * for it. */
	__u32 perf_samples;
};

/* One per CPU. */
struct pyrite_cpu {
	/* When the last tick came; 0 before the first. */
	__u64 last_tick_boot_ns;
	__u64 ticks[PYRITE_TICK_COUNT];
};

#pragma clang diagnostic pop

#endif
