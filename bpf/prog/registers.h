/* Registers of user mode: where the kernel keeps them, in a tick's context, on the task's kernel stack and in the frame that
 * a signal pushed, and which DWARF numbers they have. The layouts are the kernel's UAPI (asm/ptrace.h, asm/sigcontext.h);
 * they stand here so that the programs compile for either architecture on both.
 */
#ifndef PYRITE_REGISTERS_H
#define PYRITE_REGISTERS_H

#include "helpers.h"
#include "kernel.h"
#include "maps.h"
#include "walk_state.h"

#if defined(__TARGET_ARCH_x86)

struct user_registers {
	__u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};
enum {
	DWARF_FP = 6,
	DWARF_SP = 7,
	DWARF_REGISTERS = PYRITE_X86_64_REGISTERS,
	/* From the stack pointer in the trampoline to the first register of struct sigcontext. */
	SIGNAL_REGISTERS_AT = 40,
	SIGNAL_REGISTERS = 17,
	SIGNAL_IP = 16,
	LEAF_WITHOUT_STACK = 0,
	FP_TELLS_SP = 1, /* the caller's SP lies behind the return address, and that behind the caller's FP */
	KERNEL_STACK_BYTES = 16384, /* before 5.15, in distributions' kernels */
};
/* The index of each DWARF register among the words of struct pt_regs, and of struct sigcontext. */
static const __u8 task_order[DWARF_REGISTERS] = { 10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0 };
static const __u8 signal_order[DWARF_REGISTERS] = { 13, 12, 14, 11, 9, 8, 10, 15, 0, 1, 2, 3, 4, 5, 6, 7 };
#define TASK_IP 16

#elif defined(__TARGET_ARCH_arm64)

struct user_registers {
	__u64 x[31], sp, pc, pstate;
};
enum {
	DWARF_FP = 29,
	DWARF_LR = 30,
	DWARF_SP = 31,
	DWARF_REGISTERS = PYRITE_AARCH64_REGISTERS,
	SIGNAL_REGISTERS_AT = 312,
	SIGNAL_REGISTERS = 33,
	SIGNAL_IP = 32,
	LEAF_WITHOUT_STACK = 1,
	FP_TELLS_SP = 0, /* FP and return address lie at the lower end of the frame */
	KERNEL_STACK_BYTES = 16384, /* before 5.15, in distributions' kernels */
};
static const __u8 task_order[DWARF_REGISTERS] = { 0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
						  16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31 };
#define signal_order task_order
#define TASK_IP 32

#else
#error "unknown target architecture"
#endif

/* What the kernel hands to a program at a tick: linux/bpf_perf_event.h with the registers spelt out. */
struct tick_context {
	struct user_registers regs;
	__u64 sample_period;
	__u64 addr;
};

static __always_inline _Bool interrupted_user_mode(struct tick_context *ctx)
{
#if defined(__TARGET_ARCH_x86)
	return (ctx->regs.cs & 3) == 3;
#else
	return (ctx->regs.pstate & 0xf) == 0;
#endif
}

/* Without the bits of a code pointer that authenticate it. */
static __always_inline __u64 code_address(__u64 pointer)
{
#if defined(__TARGET_ARCH_arm64)
	return pointer & ~config.address_tag_mask;
#else
	return pointer;
#endif
}

/* The registers of a tick that interrupted user mode. */
static __always_inline void take_tick_registers(struct tick_context *ctx, struct walk *walk)
{
#if defined(__TARGET_ARCH_x86)
	walk->ip = ctx->regs.ip;
	walk->sp = ctx->regs.sp;
	walk->fp = ctx->regs.bp;
#else
	walk->ip = code_address(ctx->regs.pc);
	walk->sp = ctx->regs.sp;
	walk->fp = ctx->regs.x[DWARF_FP];
	walk->lr = ctx->regs.x[DWARF_LR];
#endif
}

/* Where the kernel put the user's registers when the task entered it, by whatever way. */
static __always_inline const void *task_registers(void)
{
	if (kernel_has_value(enum bpf_func_id___newer, BPF_FUNC_task_pt_regs___here))
		return bpf_task_pt_regs(bpf_get_current_task_btf());

	struct task_struct *task = bpf_get_current_task();

	return read_field(task, stack) + KERNEL_STACK_BYTES - kernel_sizeof(struct pt_regs);
}

/* Sorts the raw registers by DWARF number; `order` says where each is. */
static __always_inline void sort_registers(struct walk *walk, const __u8 *order)
{
#pragma unroll
	for (int i = 0; i < DWARF_REGISTERS; i++)
		walk->registers[i] = walk->raw_registers[order[i]];
	walk->registers_read = 1;
}

static __always_inline void take_sorted_registers(struct walk *walk, __u32 ip_at)
{
	walk->ip = code_address(walk->raw_registers[ip_at]);
	walk->sp = walk->registers[DWARF_SP];
	walk->fp = walk->registers[DWARF_FP];
#if defined(__TARGET_ARCH_arm64)
	walk->lr = walk->registers[DWARF_LR];
#endif
}

/* Reads all the user's registers of the current task into `registers`. Returns whether that went well. */
VERIFIED_ONCE int read_task_registers(__u32 slot)
{
	struct walk *walk = walk_at(slot);

	if (!walk || bpf_probe_read_kernel(walk->raw_registers, sizeof(struct user_registers), task_registers()) != 0)
		return 0;
	sort_registers(walk, task_order);
	return 1;
}

/* Goes on from the registers that a signal interrupted: they lie in the frame that the kernel pushed for its handler. */
VERIFIED_ONCE int take_signal_registers(__u32 slot)
{
	struct walk *walk = walk_at(slot);
	__u64 at;
	__u32 trampoline;

	if (!walk)
		return PYRITE_STACK_FAULT;
	trampoline = walk->next_frame - 1;
	at = walk->sp + SIGNAL_REGISTERS_AT;
	if (bpf_probe_read_user(walk->raw_registers, SIGNAL_REGISTERS * sizeof(__u64), (void *)at) != 0)
		return PYRITE_STACK_FAULT;
	sort_registers(walk, signal_order);
	take_sorted_registers(walk, SIGNAL_IP);
	if (!walk->ip)
		return PYRITE_STACK_CHAIN_END;
	/* No call comes before the trampoline, and none before the interrupted instruction: see `step`. */
	if (!walk->exact && trampoline < MAX_FRAMES)
		walk->frames[trampoline]++;
	walk->exact = 1;
	walk->sp_lost = 0;
	return 0;
}

#endif
