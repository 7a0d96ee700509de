/* What the BPF programs and user space say to each other: fixed-width fields, explicit padding, nothing else.
 *
 * A sample record in the ring buffer:
 *
 *   struct pyrite_sample_header | kernel_frames x u64, leaf first | user_frames x u64, leaf first
 */
#ifndef PYRITE_ABI_H
#define PYRITE_ABI_H

#include <linux/types.h>

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
	PYRITE_MAX_FRAMES = 127,
};

/* First word of every record: which struct follows. */
enum pyrite_record { PYRITE_RECORD_SAMPLE = 1 };

enum pyrite_sample_flag {
	PYRITE_SAMPLE_KERNEL_THREAD = 1,
	/* The tick interrupted user mode: the first user frame is the exact instruction. */
	PYRITE_SAMPLE_USER_MODE = 2,
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
	__u8 comm[PYRITE_COMM_BYTES];
};

/* Set once before load; read-only afterwards. */
struct pyrite_config {
	/* The drain is woken early once this much waits in the ring. */
	__u64 ring_wakeup_bytes;
	/* Length of one tick where the sampling clock is a timer; 0 where its rate adapts. */
	__u64 period_ns;
};

/* One per CPU. */
struct pyrite_cpu {
	__u64 ticks[PYRITE_TICK_COUNT];
	/* Time the event had run when its last tick came; starts again from 0 when the event is opened anew. */
	__u64 last_running_ns;
};

#pragma clang diagnostic pop

#endif
