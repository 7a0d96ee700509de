/* Reading words of the user's stack. A read of user memory costs the same for a word as for some hundred bytes, so a window
 * from the wanted word upwards is read, where the callers' frames lie.
 */
#ifndef PYRITE_STACK_WINDOW_H
#define PYRITE_STACK_WINDOW_H

#include "helpers.h"
#include "walk_state.h"

enum { SMALLEST_PAGE = 4096 };

/* Moves the window to `address`. Returns whether at least a word could be read. */
VERIFIED_ONCE int move_window(__u32 slot, __u64 address)
{
	struct walk *walk = walk_at(slot);
	/* Up to the end of the page, beyond which the stack may have ended. */
	__u64 bytes = SMALLEST_PAGE - address % SMALLEST_PAGE;

	if (!walk)
		return 0;
	walk->window_start = address;
	walk->window_reach = WINDOW_BYTES - sizeof(__u64) + 1;
	if (bpf_probe_read_user(walk->window, WINDOW_BYTES, (void *)address) == 0)
		return 1;
	walk->window_reach = 0;
	if (bytes < sizeof(__u64) || bytes >= WINDOW_BYTES)
		return 0;
	/* The mask changes nothing; it tells the verifier the bound. */
	opaque(bytes);
	bytes &= WINDOW_BYTES - 1;
	if (bpf_probe_read_user(walk->window, bytes, (void *)address) != 0)
		return 0;
	walk->window_reach = bytes - sizeof(__u64) + 1;
	return 1;
}

static __always_inline _Bool read_stack(struct walk *walk, __u32 slot, __u64 address, __u64 *word)
{
	__u64 at = address - walk->window_start;

	if (at >= walk->window_reach) {
		if (!move_window(slot, address))
			return 0;
		at = 0;
	}
	*word = *(__u64 *)(walk->window + (at & (WINDOW_BYTES - 1)));
	return 1;
}

#endif
