/* Copies of stacks for user space to finish: of processes and mappings that it does not know yet, so many a second and CPU.
 *
 * Where a walk first meets something unknown, the registers are noted; the walk goes on as well as it can, and the bytes are
 * copied when it is known how many frames come before them in the record.
 */
#ifndef PYRITE_COPY_H
#define PYRITE_COPY_H

#include "helpers.h"
#include "maps.h"
#include "registers.h"
#include "stack_window.h"
#include "walk_state.h"

static const __u64 second_ns = 1000000000;

/* Takes one of this second's copies. Returns whether there was one left. */
static __always_inline _Bool take_copy_token(struct walk *walk)
{
	__u64 now = walk->header.time_boot_ns;

	if (now - walk->copies_since_ns >= second_ns) {
		walk->copies_since_ns = now;
		walk->copies = 0;
	}
	if (walk->copies >= config.copies_per_second)
		return 0;
	walk->copies++;
	return 1;
}

/* Notes that user space shall go on from the frame that is looked at, which is in the record already, unless that was noted of
 * one before. */
VERIFIED_ONCE int want_copy(__u32 slot)
{
	struct walk *walk = walk_at(slot);

	if (!walk || walk->copy_wanted || !take_copy_token(walk))
		return 0;
	struct pyrite_stack_copy *copy = &walk->copy;
	if (walk->exact && !walk->registers_read)
		read_task_registers(slot);
	copy->all_registers = walk->exact && walk->registers_read;
	copy->sp_lost = walk->sp_lost;
	__builtin_memcpy(copy->registers, walk->registers, sizeof(copy->registers));
	copy->registers[DWARF_SP] = walk->sp;
	copy->registers[DWARF_FP] = walk->fp;
#if defined(__TARGET_ARCH_arm64)
	copy->registers[DWARF_LR] = walk->lr;
#endif
	copy->ip = walk->ip;
	copy->frames_before = walk->next_frame - walk->header.kernel_frames - 1;
	walk->copy_wanted = 1;
	return 0;
}

/* Puts the copy behind the frames. Returns how many bytes that are, head included. */
VERIFIED_ONCE int append_copy(__u32 slot)
{
	struct walk *walk = walk_at(slot);
	__u64 done = 0, frames;

	if (!walk)
		return 0;
	frames = walk->next_frame;
	if (frames > MAX_FRAMES)
		return 0;
	__u8 *head = (__u8 *)(walk->frames + frames);
	__u8 *bytes = head + sizeof(walk->copy);
	/* The first read ends with its page, the others are whole pages: what ends the stack is the end of a page. */
	for (__u32 page = 0; page <= PYRITE_MAX_COPY_BYTES / SMALLEST_PAGE; page++) {
		__u64 address = walk->copy.registers[DWARF_SP] + done;
		__u64 wanted = SMALLEST_PAGE - address % SMALLEST_PAGE;

		if (done >= PYRITE_MAX_COPY_BYTES)
			break;
		if (wanted > PYRITE_MAX_COPY_BYTES - done)
			wanted = PYRITE_MAX_COPY_BYTES - done;
		opaque(wanted);
		if (wanted > SMALLEST_PAGE || done > PYRITE_MAX_COPY_BYTES - wanted)
			break;
		if (bpf_probe_read_user(bytes + done, wanted, (void *)address) != 0)
			break;
		done += wanted;
	}
	walk->copy.bytes = done;
	if (bpf_probe_read_kernel(head, sizeof(walk->copy), &walk->copy) != 0)
		return 0;
	return sizeof(walk->copy) + done;
}

#endif
