/* The processes that `capture` follows. See processes.h. */
#define _GNU_SOURCE
#include "processes.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 4096 };

static struct process *buckets[BUCKETS];

static void *or_die(void *allocated)
{
	if (!allocated)
		abort();
	return allocated;
}

static void forget_mappings(struct process *process)
{
	for (size_t i = 0; i < process->count; i++)
		free(process->mappings[i].path);
	free(process->mappings);
	process->mappings = NULL;
	process->count = 0;
	process->set = 0;
}

struct process *process_find(uint32_t tgid)
{
	struct process *process = buckets[tgid % BUCKETS];

	while (process && process->tgid != tgid)
		process = process->next;
	return process;
}

struct process *process_add(uint32_t tgid)
{
	struct process *process = process_find(tgid);

	if (process) {
		forget_mappings(process);
		return process;
	}
	process = or_die(calloc(1, sizeof(*process)));
	process->tgid = tgid;
	process->next = buckets[tgid % BUCKETS];
	buckets[tgid % BUCKETS] = process;
	return process;
}

static void append(struct process *process, const struct process_mapping *mapping)
{
	size_t bytes = (process->count + 1) * sizeof(*process->mappings);

	process->mappings = or_die(realloc(process->mappings, bytes));
	process->mappings[process->count] = *mapping;
	process->mappings[process->count++].path = or_die(strdup(mapping->path));
}

void process_fork(uint32_t tgid, uint32_t parent_tgid)
{
	const struct process *parent = process_find(parent_tgid);

	if (!parent)
		return;
	struct process *process = process_add(tgid);
	for (size_t i = 0; i < parent->count; i++)
		append(process, &parent->mappings[i]);
}

void process_exec(uint32_t tgid)
{
	struct process *process = process_find(tgid);

	if (process)
		forget_mappings(process);
}

/* Appends what is left of `old` between `start` and `end`. */
static void append_rest(struct process *process, const struct process_mapping *old, uint64_t start, uint64_t end)
{
	if (start >= end)
		return;
	struct process_mapping rest = *old;

	rest.start = start;
	rest.end = end;
	rest.offset = old->offset + (start - old->start);
	append(process, &rest);
}

void process_map(uint32_t tgid, const struct process_mapping *mapping)
{
	struct process *process = process_find(tgid);

	if (!process)
		return;
	struct process old = *process;

	process->mappings = NULL;
	process->count = 0;
	for (size_t i = 0; i < old.count; i++) {
		const struct process_mapping *one = &old.mappings[i];
		if (one->end <= mapping->start || one->start >= mapping->end) {
			append(process, one);
			continue;
		}
		append_rest(process, one, one->start, mapping->start);
		append_rest(process, one, mapping->end, one->end);
	}
	forget_mappings(&old);
	append(process, mapping);
	process->set = 0;
}

char *process_maps(const struct process *process)
{
	char *text = NULL;
	size_t bytes = 0;
	FILE *stream = or_die(open_memstream(&text, &bytes));

	for (size_t i = process->count; i-- > 0;) {
		const struct process_mapping *mapping = &process->mappings[i];
		fprintf(stream, "%" PRIx64 "-%" PRIx64 " r-xp %08" PRIx64 " %02x:%02x %" PRIu64 " %s\n", mapping->start,
			mapping->end, mapping->offset, mapping->major, mapping->minor, mapping->inode, mapping->path);
	}
	fclose(stream);
	return text;
}
