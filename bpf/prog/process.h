/* Which mappings a walk goes by: those of the process, or of the one that it is a fork of. */
#ifndef PYRITE_PROCESS_H
#define PYRITE_PROCESS_H

#include "kernel.h"
#include "maps.h"
#include "walk_state.h"

/* How many generations of forks without exec are looked back. */
enum { MAX_ANCESTORS = 4 };

static __always_inline __u64 *stamp_of(__u32 tgid)
{
	__u32 index = tgid % PYRITE_STAMPS;

	return bpf_map_lookup_elem(&stamps, &index);
}

static __always_inline struct known_process *known_process(struct walk *walk, __u32 tgid)
{
	return &walk->known[tgid % KNOWN_PROCESSES];
}

/* Keeps what the map says of a process, under the stamp that was read before. Returns whether it says anything. */
VERIFIED_ONCE int look_up_process(__u32 slot, __u32 tgid, __u64 start_boot_ns, __u64 stamp)
{
	const volatile struct pyrite_process *process = bpf_map_lookup_elem(&processes, &tgid);
	struct walk *walk = walk_at(slot);

	if (!process || !walk)
		return 0;
	struct known_process *known = known_process(walk, tgid);
	__u32 generation = process->generation;
	if (start_boot_ns > process->began_by_boot_ns)
		return 0;
	known->tgid = 0;
	known->stamp = stamp;
	known->start_boot_ns = start_boot_ns;
	known->generation = generation;
	known->mappings = process->mappings;
	known->mapping_root = process->root;
	/* An entry of a preallocated map can become that of another process while it is read. */
	if (process->generation != generation)
		return 0;
	known->tgid = tgid;
	return 1;
}

/* Takes over what is known of a process. Returns whether anything is. */
static __always_inline _Bool take_process(struct walk *walk, __u32 slot, __u32 tgid, __u64 start_boot_ns)
{
	const struct known_process *known = known_process(walk, tgid);
	const volatile __u64 *stamp_now = stamp_of(tgid);
	__u64 stamp = stamp_now ? *stamp_now : 0;

	if (known->stamp != stamp || known->tgid != tgid || known->start_boot_ns != start_boot_ns)
		if (!look_up_process(slot, tgid, start_boot_ns, stamp))
			return 0;
	walk->generation = known->generation;
	walk->mappings = known->mappings;
	walk->mapping_root = known->mapping_root;
	return 1;
}

/* What was known of the process until now holds no more. */
static __always_inline void forget_process(__u32 tgid)
{
	__u64 *stamp = stamp_of(tgid);

	bpf_map_delete_elem(&processes, &tgid);
	if (stamp)
		__sync_fetch_and_add(stamp, 1);
}

/* A fork without exec has the mappings that its parent had. That it still is its parent, and not the process that took in
 * an orphan, nor one that has called exec since, is shown by the file they run: the kernel hands the open file on at a fork
 * and opens another at exec. */
VERIFIED_ONCE int take_ancestor(__u32 slot)
{
	struct walk *walk = walk_at(slot);
	struct task_struct *task = bpf_get_current_task();
	struct mm_struct *mm = read_field(task, mm);
	void *exe_file = mm ? read_field(mm, exe_file) : 0;

	if (!walk || !exe_file)
		return 0;
	for (__u32 i = 0; i < MAX_ANCESTORS; i++) {
		if (!(read_field(task, flags) & PF_FORKNOEXEC))
			return 0;
		task = read_field(task, group_leader);
		task = read_field(task, real_parent);
		task = read_field(task, group_leader);
		mm = read_field(task, mm);
		if (!mm || read_field(mm, exe_file) != exe_file)
			return 0;
		if (take_process(walk, slot, read_field(task, tgid), read_field(task, start_boottime))) {
			walk->header.flags |= PYRITE_SAMPLE_PARENT_MAPPINGS;
			return 1;
		}
	}
	return 0;
}

/* Leaves generation 0 where nothing is known. */
static __always_inline void find_process(struct walk *walk, __u32 slot)
{
	walk->generation = 0;
	walk->mappings = 0;
	walk->mapping.start = walk->mapping.end = 0;
	if (!take_process(walk, slot, walk->header.tgid, walk->header.start_boot_ns))
		take_ancestor(slot);
	walk->header.generation = walk->generation;
}

#endif
