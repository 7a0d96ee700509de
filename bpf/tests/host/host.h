/* In place of the kernel's helpers, maps and sections: the same programs compiled for the machine that tests them, under
 * ASan and UBSan. `host.c` plays the kernel over recorded memory.
 */
#ifndef PYRITE_HOST_H
#define PYRITE_HOST_H

#include <linux/bpf.h>
#include <linux/stddef.h>

#define SEC(name)
#define LOADED volatile
#define __uint(name, value) int (*name)[value]
#define __type(name, type) __typeof__(type) *name
#define __array(name, type) __typeof__(type) *name[]

void *bpf_map_lookup_elem(const void *map, const void *key);
long bpf_map_delete_elem(void *map, const void *key);
long bpf_probe_read_kernel(void *to, __u32 size, const void *from);
long bpf_probe_read_user(void *to, __u32 size, const void *from);
__u64 bpf_get_current_pid_tgid(void);
__u64 bpf_get_current_cgroup_id(void);
void *bpf_get_current_task(void);
void *bpf_get_current_task_btf(void);
const void *bpf_task_pt_regs(void *task);
long bpf_get_current_comm(void *to, __u32 size);
__u32 bpf_get_smp_processor_id(void);
__u64 bpf_ktime_get_ns(void);
__u64 bpf_ktime_get_boot_ns(void);
long bpf_get_stack(void *ctx, void *to, __u32 size, __u64 flags);
long bpf_ringbuf_output(void *ring, void *data, __u64 size, __u64 flags);
__u64 bpf_ringbuf_query(void *ring, __u64 what);

/* Structs are laid out as they stand in kernel.h, and the kernel is a new one. */
#define kernel_address(pointer, field) (&(pointer)->field)
#define kernel_has_value(enum_type, value) 1
#define kernel_has_field(type, field) 1
#define kernel_sizeof(type) sizeof(type)

#endif
