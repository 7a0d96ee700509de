/* The few kernel structs that the programs read, by CO-RE: only names and types matter, offsets come from the kernel's BTF.
 *
 * task_struct.start_boottime has had this name since 5.5; the oldest supported kernel is 5.10.
 */
#ifndef PYRITE_KERNEL_H
#define PYRITE_KERNEL_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct task_struct {
	unsigned int flags;
	struct task_struct *group_leader;
	__u64 start_boottime;
};

#pragma clang attribute pop

/* task_struct.flags: include/linux/sched.h, the same bit since 2.6. */
#define PF_KTHREAD 0x00200000

#endif
