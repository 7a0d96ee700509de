/* The processes that `capture` follows, and what each has mapped executable. */
#ifndef PYRITE_JUDGE_PROCESSES_H
#define PYRITE_JUDGE_PROCESSES_H

#include <stddef.h>
#include <stdint.h>

struct process_mapping {
	uint64_t start, end, offset, inode;
	uint32_t major, minor;
	char *path;
};

struct process {
	uint32_t tgid;
	uint64_t set; /* id of the mapping set last written, 0 where there was a change since */
	struct process_mapping *mappings; /* newest last, disjoint */
	size_t count;
	struct process *next;
};

/* Follows a process from now on. One of the same tgid is forgotten. */
struct process *process_add(uint32_t tgid);

struct process *process_find(uint32_t tgid);

/* Follows the child of a process that is followed. */
void process_fork(uint32_t tgid, uint32_t parent_tgid);

void process_exec(uint32_t tgid);

/* A new mapping, which replaces what it overlaps. */
void process_map(uint32_t tgid, const struct process_mapping *mapping);

/* Lines of /proc/PID/maps, newest mapping first. To be freed. */
char *process_maps(const struct process *process);

#endif
