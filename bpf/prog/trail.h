/* The trail: what the walks of this CPU found, kept in the order in which they found it. The frames of a stack lie side by
 * side in it, so a walk that goes where another has gone reads its lines of memory one after the other; most of the time
 * of a walk is spent waiting for memory, for between two ticks the caches forget. Where it leaves that path, a hash leads to
 * the address's footprint.
 */
#ifndef PYRITE_TRAIL_H
#define PYRITE_TRAIL_H

#include "rule.h"
#include "walk_state.h"

static __always_inline __u16 *trail_index(struct walk *walk, __u64 pc)
{
	/* Fibonacci hashing: the golden ratio spreads neighbours, and the product's upper bits depend on all of the address. */
	__u64 hash = (pc ^ (__u64)walk->generation << 32) * 0x9e3779b97f4a7c15ull;

	return &walk->trail_index[hash >> (64 - TRAIL_INDEX_BITS)];
}

static __always_inline struct footprint *footprint_at(struct walk *walk, __u32 at)
{
	return &walk->trail[at % TRAIL_LENGTH];
}

static __always_inline _Bool is_footprint_of(const struct footprint *footprint, const struct walk *walk, __u64 pc)
{
	return footprint->pc == pc && footprint->generation == walk->generation;
}

static __always_inline void leave_footprint(struct walk *walk, __u64 pc, __u32 action)
{
	__u32 at = walk->trail_end++;
	struct footprint *footprint = footprint_at(walk, at);

	footprint->pc = pc;
	footprint->generation = walk->generation;
	footprint->action = action;
	*trail_index(walk, pc) = at;
	walk->trail_next = at + 1;
}

/* Searches the tables for what is not on the trail. */
VERIFIED_ONCE __u32 find_action(__u32 slot, __u64 pc)
{
	struct walk *walk = walk_at(slot);
	_Bool final;
	__u32 action;
	int reason = find_mapping(slot, pc);

	if (!walk || reason)
		return ACTION_COPY | no_row(reason & 0xff);
	action = search_action(walk, pc, &final);
	if (final)
		leave_footprint(walk, pc, action);
	return action;
}

/* What to do at an address of the process. */
static __always_inline __u32 action_at(struct walk *walk, __u32 slot, __u64 pc)
{
	__u32 at = walk->trail_next;
	const struct footprint *footprint = footprint_at(walk, at);

	/* Of a process that is not known nothing is on the trail; what was never written there looks like its address 0. */
	if (!walk->generation)
		return find_action(slot, pc);
	if (!is_footprint_of(footprint, walk, pc)) {
		at = *trail_index(walk, pc);
		footprint = footprint_at(walk, at);
		if (!is_footprint_of(footprint, walk, pc))
			return find_action(slot, pc);
	}
	walk->trail_next = at + 1;
	return footprint->action;
}

#endif
