/* Every map but those of one program alone, the configuration, and how a chunk is found. */
#ifndef PYRITE_MAPS_H
#define PYRITE_MAPS_H

#include "abi.h"
#include "helpers.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pyrite_cpu);
} cpus SEC(".maps");

/* tgid to what is known of the process. Preallocated, for before 6.1 perf event programs may use no other hash. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PYRITE_MAX_PROCESSES);
	__type(key, __u32);
	__type(value, struct pyrite_process);
} processes SEC(".maps");

/* When a process last called exec, for user space, which may just be publishing what it had mapped before. By tgid modulo
 * the number of elements: that another one's exec is taken for it delays a publication by one round. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PYRITE_EXEC_SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} execs SEC(".maps");

/* Small enough for the kernel to put it where its own data is, whose addresses cost less to translate; so not mappable. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PYRITE_STAMPS);
	__type(key, __u32);
	__type(value, __u64);
} stamps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PYRITE_MAX_EXECUTABLES);
	__type(key, __u32);
	__type(value, struct pyrite_executable);
} executables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PYRITE_MAX_RULES);
	__type(key, __u32);
	__type(value, struct pyrite_rule);
} rules SEC(".maps");

/* All slabs are alike: BPF_F_INNER_MAP would allow others, and would keep the kernel from inlining the lookup. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, PYRITE_MAX_SLABS);
	__type(key, __u32);
	/* Sizes and not types: of a type named here clang says too little for the loader. */
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(map_flags, BPF_F_MMAPABLE);
		__uint(max_entries, PYRITE_SLAB_CHUNKS);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, PYRITE_CHUNK_BYTES);
	});
} slabs SEC(".maps");

LOADED struct pyrite_config config SEC(".rodata") = {};

static const __u32 first = 0;

/* Null where there is no such chunk. */
static __always_inline void *chunk_at(__u32 id)
{
	__u32 slab = id / PYRITE_SLAB_CHUNKS, index = id % PYRITE_SLAB_CHUNKS;
	void *chunks = bpf_map_lookup_elem(&slabs, &slab);

	return chunks ? bpf_map_lookup_elem(chunks, &index) : 0;
}

#endif
