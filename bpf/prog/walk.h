/* The walk of a user stack, for every program that wants one. Before: fill in the header's identity (record.h), then the
 * kernel frames. After: send the record.
 */
#ifndef PYRITE_WALK_H
#define PYRITE_WALK_H

#include "copy.h"
#include "frame.h"
#include "process.h"
#include "registers.h"
#include "walk_state.h"

/* Follows the frames to the stack's end, or as far as possible. */
VERIFIED_ONCE int follow_frames(__u32 slot)
{
	/* One more than fit: the last finds the record full. */
	for (__u32 i = 0; i <= PYRITE_MAX_USER_FRAMES; i++) {
		int outcome = step(slot);

		if (outcome)
			return outcome;
	}
	return PYRITE_STACK_TOO_DEEP;
}

/* The registers that a task in the kernel came from user mode with. Returns whether it has any that lead to a stack. */
static __always_inline _Bool take_task_registers(struct walk *walk, __u32 slot)
{
	struct task_struct *task = bpf_get_current_task();
	struct mm_struct *mm = read_field(task, mm);

	/* A process that ends gives up its memory before it is gone; one that calls exec is given new memory, but has the old
	 * program's registers until the new one is loaded. */
	if (!mm || !read_field(mm, end_code))
		return 0;
	if (!read_task_registers(slot))
		return 0;
	take_sorted_registers(walk, TASK_IP);
	/* A kernel thread's, or one of io_uring's that was made in user mode but never was there. */
	return walk->ip || walk->sp;
}

/* Walks the current task's user stack behind the kernel frames. `ctx` holds the registers where the header says
 * PYRITE_SAMPLE_USER_MODE, and may be null where it does not. */
static __always_inline void walk_user_stack(struct tick_context *ctx, struct walk *walk, __u32 slot)
{
	struct pyrite_sample_header *header = &walk->header;

	header->user_stack = PYRITE_STACK_ABSENT;
	header->frame_pointer_frames = 0;
	header->generation = 0;
	header->user_frames = 0;
	walk->next_frame = header->kernel_frames;
	walk->frame_limit = header->kernel_frames + PYRITE_MAX_USER_FRAMES;
	walk->registers_read = 0;
	walk->copy_wanted = 0;
	walk->window_reach = 0;
	walk->exact = 1;
	walk->sp_lost = 0;
	if (header->flags & PYRITE_SAMPLE_KERNEL_THREAD)
		return;
	/* The verifier cannot know that the flag implies a context. */
	if (ctx && header->flags & PYRITE_SAMPLE_USER_MODE)
		take_tick_registers(ctx, walk);
	else if (!take_task_registers(walk, slot))
		return;
	find_process(walk, slot);
	header->user_stack = follow_frames(slot);
	header->user_frames = walk->next_frame - header->kernel_frames;
}

#endif
