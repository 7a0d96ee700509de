/* The sample record: whose it is, its kernel frames, and how it gets into the ring. */
#ifndef PYRITE_RECORD_H
#define PYRITE_RECORD_H

#include "copy.h"
#include "kernel.h"
#include "maps.h"
#include "registers.h"
#include "walk_state.h"

/* Takes over what the header says of the task. Returns the task's flags. */
static __always_inline __u32 describe_task(struct pyrite_sample_header *header)
{
	/* Where the kernel lets programs follow its pointers (5.11), a field costs a load; else a call. */
	if (kernel_has_value(enum bpf_func_id___newer, BPF_FUNC_get_current_task_btf___here)) {
		struct task_struct *task = bpf_get_current_task_btf();

		header->start_boot_ns = task->group_leader->start_boottime;
		header->cgroup_id = task->cgroups->dfl_cgrp->kn->id;
		__builtin_memcpy(header->comm, task->comm, sizeof(header->comm));
		return task->flags;
	}
	struct task_struct *task = bpf_get_current_task();
	struct task_struct *leader = read_field(task, group_leader);

	header->start_boot_ns = read_field(leader, start_boottime);
	header->cgroup_id = bpf_get_current_cgroup_id();
	bpf_get_current_comm(header->comm, sizeof(header->comm));
	return read_field(task, flags);
}

/* Whose sample it is. Before: the time, and in the flags whether user mode was interrupted. */
static __always_inline void identify(struct pyrite_sample_header *header, __u64 pid_tgid)
{
	__u32 flags = describe_task(header);

	header->kind = PYRITE_RECORD_SAMPLE;
	header->cpu = bpf_get_smp_processor_id();
	header->tgid = pid_tgid >> 32;
	header->tid = (__u32)pid_tgid;
	if (flags & PF_KTHREAD)
		header->flags |= PYRITE_SAMPLE_KERNEL_THREAD;
	if (flags & PF_EXITING)
		header->flags |= PYRITE_SAMPLE_EXITING;
	header->reserved = 0;
	header->reserved2 = 0;
}

/* The kernel's own unwinder knows its stack best. Nothing of it lies behind a tick in user mode. */
static __always_inline void walk_kernel_stack(void *ctx, struct walk *walk)
{
	struct pyrite_sample_header *header = &walk->header;
	__u32 frames;
	long bytes;

	header->kernel_frames = 0;
	header->kernel_stack = PYRITE_STACK_ABSENT;
	if (header->flags & PYRITE_SAMPLE_USER_MODE)
		return;
	bytes = bpf_get_stack(ctx, walk->frames, PYRITE_MAX_KERNEL_FRAMES * sizeof(walk->frames[0]), 0);
	if (bytes < 0) {
		header->kernel_stack = PYRITE_STACK_FAULT;
		return;
	}
	frames = bytes / sizeof(walk->frames[0]);
	header->kernel_frames = frames;
	if (frames)
		header->kernel_stack = frames < PYRITE_MAX_KERNEL_FRAMES ? PYRITE_STACK_COMPLETE : PYRITE_STACK_TOO_DEEP;
}

/* So much may be sent between two looks at how full the ring is. */
enum { LOOK_EVERY_BYTES = 4096 };

/* Whether to wake the reader: only when much is waiting, for it comes by itself every now and then, and a wakeup per record
 * costs more than the record. To look for each would make it dearer, too. */
static __always_inline _Bool is_much_waiting(struct walk *walk, __u64 bytes)
{
	walk->sent_bytes += bytes;
	if (walk->sent_bytes < LOOK_EVERY_BYTES)
		return 0;
	walk->sent_bytes = 0;
	return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) >= config.ring_wakeup_bytes;
}

/* Puts a record into the ring. Returns whether it had room. */
static __always_inline _Bool output(struct walk *walk, const void *record, __u64 bytes)
{
	__u64 wakeup = is_much_waiting(walk, bytes) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;

	return bpf_ringbuf_output(&ring, (void *)record, bytes, wakeup) == 0;
}

/* The same for the record of a walk. */
static __always_inline _Bool send(struct walk *walk, __u32 slot)
{
	__u64 frames = walk->next_frame, bytes;

	if (frames > MAX_FRAMES)
		return 0;
	bytes = sizeof(walk->header) + frames * sizeof(walk->frames[0]);
	if (walk->copy_wanted) {
		__u64 behind = (__u32)append_copy(slot);

		if (behind > sizeof(walk->behind_frames))
			return 0;
		if (behind)
			walk->header.flags |= PYRITE_SAMPLE_STACK_COPY;
		bytes += behind;
	}
	return output(walk, &walk->header, bytes);
}

#endif
