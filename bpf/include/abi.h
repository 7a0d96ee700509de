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
 * A thread that leaves a CPU may be captured: that makes a record of the same shape, of kind PYRITE_RECORD_OFF_CPU. When the
 * thread is back, a struct pyrite_off_cpu_end follows. A thread that was not captured but stayed away for much longer than
 * foreseen makes a struct pyrite_off_cpu_tail when it is back.
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

enum pyrite_off {
#define OFF(id, name, help) PYRITE_OFF_##id,
#include "reasons.def"
	PYRITE_OFF_COUNT
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
	/* The table of threads: sets, found by a hash of the tid, of so many threads, which fill a cache line. */
	PYRITE_THREAD_SETS_SHIFT = 13,
	PYRITE_THREAD_SETS = 1 << PYRITE_THREAD_SETS_SHIFT,
	PYRITE_THREAD_WAYS = 4,
	/* The unit of foreseen times off the CPU, as a power of two of nanoseconds: 256 ns. */
	PYRITE_OFF_CPU_UNIT_SHIFT = 8,
};

/* The kinds of programs that walk stacks. A tick may interrupt the other, so each has memory of its own on every CPU. */
enum pyrite_context {
	PYRITE_CONTEXT_TICK,
	PYRITE_CONTEXT_SWITCH,
	PYRITE_CONTEXTS
};

/* First word of every record: which struct follows. */
enum pyrite_record {
	PYRITE_RECORD_SAMPLE = 1,
	PYRITE_RECORD_OFF_CPU,
	PYRITE_RECORD_OFF_CPU_END,
	PYRITE_RECORD_OFF_CPU_TAIL,
};

enum pyrite_sample_flag {
	PYRITE_SAMPLE_KERNEL_THREAD = 1,
	/* The tick interrupted user mode: the first user frame is the exact instruction. */
	PYRITE_SAMPLE_USER_MODE = 2,
	PYRITE_SAMPLE_STACK_COPY = 4,
	/* The process was met with the mappings of its parent, of which it is a fork that has not yet called exec. */
	PYRITE_SAMPLE_PARENT_MAPPINGS = 8,
	/* Of a thread that leaves the CPU: it was ready to run on. */
	PYRITE_SAMPLE_PREEMPTED = 16,
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
	/* Of a thread that leaves the CPU, else 0: the probability with which it was captured times 2^32; all ones: certainly.
	 * Up to `head` units of its time off the CPU stand for as much of those not captured, what is longer for itself. */
	__u32 probability;
	__u32 head;
};

/* A captured thread is back on a CPU. */
struct pyrite_off_cpu_end {
	__u32 kind; /* enum pyrite_record */
	__u32 tid;
	__u64 start_boot_ns; /* `time_boot_ns` of the record that it ends */
	__u64 end_boot_ns;
	/* How much of it the thread waited for a CPU; PYRITE_RUNNABLE_UNKNOWN where the kernel does not say. */
	__u64 runnable_ns;
};

/* A thread that was not captured is back after longer than the `head` foreseen for it. What is beyond the head is accounted
 * here, without a stack: it would else be a captured one's with a weight of thousands. */
struct pyrite_off_cpu_tail {
	__u32 kind; /* enum pyrite_record */
	__u32 probability; /* with which this record was made, as in the sample header */
	__u64 end_boot_ns;
	__u64 tail_ns;
	__u64 runnable_ns; /* as in pyrite_off_cpu_end; may exceed tail_ns */
	__u64 start_boot_ns; /* of the thread group's leader */
	__u64 cgroup_id;
	__u32 tgid;
	__u32 tid;
	__u8 is_kernel_thread;
	__u8 reserved[7];
	__u8 comm[PYRITE_COMM_BYTES];
};

#define PYRITE_RUNNABLE_UNKNOWN (~0ULL)

/* Set once before load; read-only afterwards. */
struct pyrite_config {
	/* The drain is woken early once this much waits in the ring. */
	__u64 ring_wakeup_bytes;
	/* Length of one tick where the sampling clock is a timer; 0 where its rate adapts. */
	__u64 period_ns;
	/* Bits of a code address that are no part of it on aarch64 (pointer authentication); 0 on x86_64. */
	__u64 address_tag_mask;
	/* Stacks copied per second and CPU at most, and as many again of threads that leave it. */
	__u32 copies_per_second;
	/* For the accuracy harness: 1 has the kernel write its own sample of the same tick as well, where the event has a ring
	 * for it. */
	__u32 perf_samples;
	/* About how many threads that leave a CPU are captured per second and CPU; at least 1. */
	__u32 off_cpu_per_second;
	__u32 reserved;
};

/* What is remembered of threads whose tids have the same hash. A cache line. */
struct pyrite_thread_set {
	__u32 tid[PYRITE_THREAD_WAYS]; /* 0: free */
	/* Eight times the time off the CPU that is foreseen, a moving average, in units. */
	__u32 foreseen[PYRITE_THREAD_WAYS];
	/* The run queue's clock when the thread left, 0 while it runs; the lowest bits say that it was captured and has not been
	 * told to be back, or that the ring had no room for telling. */
	__u64 left[PYRITE_THREAD_WAYS];
};

/* What is remembered of a captured thread. */
struct pyrite_block {
	__u64 start_boot_ns;
	__u64 end_boot_ns;
	/* Until its end: how long the thread had waited for a CPU in all its life. Then as in pyrite_off_cpu_end. */
	__u64 runnable_ns;
};

/* One per CPU. The first line is all that most switches need. */
struct pyrite_switch_cpu {
	/* A thread with foreseen time f is captured with probability f x scale / 2^37. */
	__u64 scale;
	__u64 random;
	__u64 refilled; /* the run queue's clock */
	__u64 fates[PYRITE_OFF_COUNT];
	__u64 tails_lost;
	__u64 ends_lost;
};

/* One per CPU. */
struct pyrite_cpu {
	/* When the last tick came; 0 before the first. */
	__u64 last_tick_boot_ns;
	__u64 ticks[PYRITE_TICK_COUNT];
};

#pragma clang diagnostic pop

#endif
