/* From an address to the row of its unwind table: the mapping it lies in, then down the executable's tree of chunks.
 *
 * Each step of a search adds half of what is left or nothing, by arithmetic and not by a branch: the processor has nothing
 * to mispredict, and the verifier one path to follow and not 2^8.
 */
#ifndef PYRITE_SEARCH_H
#define PYRITE_SEARCH_H

#include "maps.h"
#include "walk_state.h"

/* 1 where a < b, else 0; both below 2^63. */
static __always_inline __u64 less(__u64 a, __u64 b)
{
	__u64 difference = a - b;

	/* Else clang makes a comparison and a branch of it. */
	opaque(difference);
	return difference >> 63;
}

enum { MAX_DEPTH = 2 };

struct found_row {
	__u32 rule;
	__u32 behind; /* how many bytes behind its row the pc lies */
};

/* Where a search goes on: `step` further where `further` is all ones, and here where it is 0. Without the veil clang finds
 * that no bits meet and ORs them, and before 6.9 the verifier knows nothing of an OR with a number it does not know. */
static __always_inline __u64 advance(__u64 at, __u64 step, __u64 further)
{
	__u64 part = step & further;

	opaque(part);
	return at + part;
}

/* The last index up to which `further`, an expression of the index `i`, is all ones, and behind which it is 0; the first where
 * it is 0 everywhere. There are `count` indexes, a power of two. */
#define search(count, i, further)                                         \
	({                                                                \
		__u64 at = 0;                                             \
		_Pragma("unroll") for (__u64 step = (count) / 2; step; step /= 2) \
		{                                                         \
			__u64 i = at + step;                              \
			at = advance(at, step, further);                  \
		}                                                         \
		at;                                                       \
	})

/* All ones where an entry that starts at `start` starts at or before `sought`, else 0. */
static __always_inline __u64 is_at_or_before(__u64 start, __u64 sought)
{
	return less(sought, start) - 1;
}

/* From a node to the chunk that covers `pc` and what its pcs are relative to. Returns whether there is such a node. */
static __always_inline _Bool descend(__u32 *id, __u32 *base, __u32 pc)
{
	const struct pyrite_node_entry *entry = chunk_at(*id);

	if (!entry)
		return 0;
	entry += search(PYRITE_NODE_ENTRIES, i, is_at_or_before(entry[i].pc, pc));
	*base = entry->pc;
	*id = entry->chunk;
	return 1;
}

/* Finds the row of `pc` (svma - lowest svma) in a published table. Returns whether there is one. */
static __always_inline _Bool search_table(const struct pyrite_executable *executable, __u32 pc, struct found_row *found)
{
	__u32 id = executable->root, base = executable->first_pc, depth = executable->depth;

	if (depth > MAX_DEPTH)
		return 0;
	/* No loop: before 6.7 the verifier takes a counter that is only compared with unknown numbers for one that stands still. */
	if ((depth > 0 && !descend(&id, &base, pc)) || (depth > 1 && !descend(&id, &base, pc)))
		return 0;
	const struct pyrite_row *row = chunk_at(id);
	if (!row || pc < base)
		return 0;
	__u32 within = pc - base, sought = within < PYRITE_NO_ROW_PC ? within : PYRITE_NO_ROW_PC - 1;
	row += search(PYRITE_LEAF_ROWS, i, is_at_or_before(row[i].pc, sought));
	if (row->pc > within)
		return 0;
	found->rule = row->rule;
	found->behind = within - row->pc;
	return 1;
}

/* Where a chunk of mappings starts; above every address where there is no such chunk. */
VERIFIED_ONCE __u64 first_mapping_start(__u32 chunk)
{
	const struct pyrite_mapping *mapping = chunk_at(chunk);

	return mapping ? mapping->start : (__u64)-1 >> 1;
}

/* Which chunk of mappings to search, where there are several; its index in `chunk`. */
static __always_inline __u32 search_mapping_chunks(const struct walk *walk, __u64 address, __u64 *chunk)
{
	const __u32 *ids = chunk_at(walk->mapping_root);
	__u64 count = (walk->mappings + PYRITE_CHUNK_MAPPINGS - 1) / PYRITE_CHUNK_MAPPINGS;

	*chunk = 0;
	if (!ids)
		return -1;
	__u64 found = search(PYRITE_CHUNK_IDS, i,
			     -less(i, count) & is_at_or_before(first_mapping_start(ids[i]), address));
	*chunk = found;
	return ids[found];
}

/* Makes `walk->mapping` the mapping that holds the address. Returns 0, or why there is none. */
VERIFIED_ONCE int find_mapping(__u32 slot, __u64 address)
{
	struct walk *walk = walk_at(slot);
	__u64 chunk = 0, count;
	__u32 id;

	if (!walk || !walk->generation)
		return PYRITE_STACK_UNKNOWN_PROCESS;
	if (address - walk->mapping.start < walk->mapping.end - walk->mapping.start)
		return 0;
	id = walk->mappings > PYRITE_CHUNK_MAPPINGS ? search_mapping_chunks(walk, address, &chunk) : walk->mapping_root;
	count = walk->mappings - chunk * PYRITE_CHUNK_MAPPINGS;
	const struct pyrite_mapping *mapping = chunk_at(id);
	if (!mapping || !walk->mappings || address >> 63)
		return PYRITE_STACK_NO_MAPPING;
	mapping += search(PYRITE_CHUNK_MAPPINGS, i, -less(i, count) & is_at_or_before(mapping[i].start, address));
	if (address - mapping->start >= mapping->end - mapping->start)
		return PYRITE_STACK_NO_MAPPING;
	walk->mapping = *mapping;
	return 0;
}

#endif
