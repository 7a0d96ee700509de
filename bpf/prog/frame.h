/* One step: from a frame to its caller. Each function returns 0 where the walk goes on, else the enum pyrite_stack that says
 * how it ended.
 */
#ifndef PYRITE_FRAME_H
#define PYRITE_FRAME_H

#include "copy.h"
#include "registers.h"
#include "rule.h"
#include "stack_window.h"
#include "trail.h"

/* In place of an FP that is lost; no frame pointer is odd. */
#define LOST_FP 1

/* Makes the caller's frame the one that is looked at. FP is the caller's, if `fp_read`. */
static __always_inline int enter_caller(struct walk *walk, __u64 cfa, __u64 fp, _Bool fp_read, __u64 return_address)
{
	return_address = code_address(return_address);
	/* What the kernel, or a thread library, leaves above the outermost frame. */
	if (return_address == 0)
		return PYRITE_STACK_CHAIN_END;
	if (!fp_read)
		return PYRITE_STACK_FAULT;
	walk->ip = return_address;
	walk->sp = cfa;
	walk->fp = fp;
	walk->exact = 0;
	walk->sp_lost = 0;
	return 0;
}

/* Whether the CFA lies behind the frame that was called. A leaf of aarch64 may need no stack; see also step_to_cfa. */
static __always_inline _Bool is_behind(const struct walk *walk, __u64 cfa)
{
	return (cfa > walk->sp || (LEAF_WITHOUT_STACK && walk->exact && cfa == walk->sp)) && cfa % WORD == 0;
}

/* Whether a number read from the stack can be a return address: a call comes before it, and calls lie in code. Of a process
 * that is not known any number can. */
static __always_inline _Bool is_behind_code(struct walk *walk, __u32 slot, __u64 return_address)
{
	return return_address == 0 || !walk->generation || find_mapping(slot, return_address - 1) == 0;
}

/* By the frame pointer chain, where the tables have no row or none that helps; `action` says why. */
VERIFIED_ONCE int step_by_frame_pointer(__u32 slot, __u32 action)
{
	struct walk *walk = walk_at(slot);
	int reason = action_behind(action) & 0xff;
	__u64 fp, caller_fp, return_address;

	if (!walk)
		return PYRITE_STACK_FAULT;
	if (action & ACTION_COPY)
		want_copy(slot);
	fp = walk->fp;
	if (fp == 0 && !walk->exact)
		return PYRITE_STACK_CHAIN_END;
	if (fp < walk->sp || fp % WORD)
		return reason;
	if (!read_stack(walk, slot, fp, &caller_fp) || !read_stack(walk, slot, fp + WORD, &return_address))
		return reason;
	if (!is_behind_code(walk, slot, code_address(return_address))) {
		/* Unless it lies in code that has just been made, of which user space knows first. */
		want_copy(slot);
		return reason;
	}
	int outcome = enter_caller(walk, fp + 2 * WORD, caller_fp, 1, return_address);
	if (outcome == 0) {
		walk->sp_lost = !FP_TELLS_SP;
		walk->header.frame_pointer_frames++;
	}
	return outcome;
}

static __always_inline int step_plainly(struct walk *walk, __u32 slot, __u32 action)
{
	__u64 cfa = (action & ACTION_FROM_FP ? walk->fp : walk->sp) + plain_cfa_offset(action);
	__u64 fp_below = plain_fp_below(action), fp = walk->fp, return_address;
	_Bool fp_read = 1;

	if (!FP_TELLS_SP && walk->sp_lost && !(action & ACTION_FROM_FP)) {
		/* A function that has saved FP points it to where it did. In any other FP belongs to a frame further up. */
		if (!fp_below)
			return PYRITE_STACK_UNSUPPORTED;
		cfa = walk->fp + fp_below;
	}
	if (!is_behind(walk, cfa))
		return PYRITE_STACK_BAD_FRAME;
	/* FP first: it lies lower, and the window reaches upwards. */
	if (fp_below)
		fp_read = read_stack(walk, slot, cfa - fp_below, &fp);
	if (!read_stack(walk, slot, cfa - plain_ra_below(action), &return_address))
		return PYRITE_STACK_FAULT;
	return enter_caller(walk, cfa, fp, fp_read, return_address);
}

/* The register that a rule names, which is known at an exact frame alone. */
static __always_inline _Bool read_register(struct walk *walk, __u32 slot, __u32 number, __u64 *value)
{
	if (!walk->exact || number >= DWARF_REGISTERS || (!walk->registers_read && !read_task_registers(slot)))
		return 0;
	*value = walk->registers[number % PYRITE_AARCH64_REGISTERS];
	return 1;
}

enum cfa_result { CFA_FOUND, CFA_UNKNOWN, CFA_LOST, CFA_FAULT };

static __always_inline enum cfa_result find_cfa(struct walk *walk, __u32 slot, const struct pyrite_rule *rule, __u32 behind,
						__u64 *cfa)
{
	__u64 base = walk->sp;
	_Bool by_fp = rule->cfa == PYRITE_CFA_FP || rule->cfa == PYRITE_CFA_FP_DEREF || rule->cfa == PYRITE_CFA_FP_SWITCH;

	if (!FP_TELLS_SP && walk->sp_lost && !by_fp) {
		if (rule->cfa != PYRITE_CFA_SP || fp_saved(rule, behind) != PYRITE_SAVED_AT_CFA)
			return CFA_LOST;
		*cfa = walk->fp - rule->fp_offset;
		return CFA_FOUND;
	}
	if (rule->cfa == PYRITE_CFA_PLT) {
		/* Of avma and svma the last bits are the same, for files are mapped by the page. */
		*cfa = base + 8 + ((__s64)((walk->ip - !walk->exact) & 15) >= rule->cfa_add ? 8 : 0);
		return CFA_FOUND;
	}
	if (by_fp)
		base = walk->fp;
	if (rule->cfa == PYRITE_CFA_REGISTER || rule->cfa == PYRITE_CFA_REGISTER_DEREF)
		if (!read_register(walk, slot, rule->reg, &base))
			return CFA_UNKNOWN;
	if (rule->cfa == PYRITE_CFA_RETURN_REGISTER && !read_register(walk, slot, rule->reg, &walk->lr))
		return CFA_UNKNOWN;
	*cfa = base + cfa_offset_behind(rule, behind);
	if (rule->cfa != PYRITE_CFA_SP_DEREF && rule->cfa != PYRITE_CFA_FP_DEREF && rule->cfa != PYRITE_CFA_REGISTER_DEREF)
		return CFA_FOUND;
	if (!read_stack(walk, slot, *cfa, cfa))
		return CFA_FAULT;
	*cfa += rule->cfa_add;
	return CFA_FOUND;
}

/* Reads the caller's FP and return address by the rule. */
static __always_inline int step_to_cfa(struct walk *walk, __u32 slot, const struct pyrite_rule *rule, __u32 saved, __u64 cfa)
{
	__u64 fp = walk->fp, return_address = walk->lr;
	_Bool fp_read = 1, in_register = rule->cfa == PYRITE_CFA_RETURN_REGISTER;
	_Bool anywhere = rule->cfa == PYRITE_CFA_FP_SWITCH || (in_register && cfa == walk->sp);

	if (anywhere ? cfa % WORD != 0 : !is_behind(walk, cfa))
		return PYRITE_STACK_BAD_FRAME;
	if (saved == PYRITE_SAVED_UNKNOWN)
		fp = LOST_FP;
	else if (saved != PYRITE_SAVED_SAME)
		fp_read = read_stack(walk, slot, (saved == PYRITE_SAVED_AT_FP ? fp : cfa) + rule->fp_offset, &fp);
	if (in_register) {
		/* find_cfa has put it into `lr`. */
	} else if (ra_saved(rule) == PYRITE_SAVED_AT_CFA) {
		if (!read_stack(walk, slot, cfa + rule->ra_offset, &return_address))
			return PYRITE_STACK_FAULT;
	} else if (!LEAF_WITHOUT_STACK || !walk->exact || ra_saved(rule) != PYRITE_SAVED_SAME) {
		/* The link register holds the return address only until the next call. */
		return PYRITE_STACK_BAD_FRAME;
	}
	return enter_caller(walk, cfa, fp, fp_read, return_address);
}

/* By what is no plain action. */
VERIFIED_ONCE int step_by_rule(__u32 slot, __u32 action)
{
	struct walk *walk = walk_at(slot);
	__u32 number = action_rule(action), behind = action_behind(action);
	const struct pyrite_rule *rule = bpf_map_lookup_elem(&rules, &number);
	__u64 cfa = 0;

	if (!walk || !rule)
		return PYRITE_STACK_FAULT;
	if (number == 0)
		return step_by_frame_pointer(slot, action);
	switch (rule->cfa) {
	case PYRITE_CFA_SIGNAL:
		return !FP_TELLS_SP && walk->sp_lost ? PYRITE_STACK_UNSUPPORTED : take_signal_registers(slot);
	case PYRITE_CFA_NONE:
	case PYRITE_CFA_FRAME_POINTER:
		return step_by_frame_pointer(slot, no_row(PYRITE_STACK_NO_UNWIND_INFO));
	case PYRITE_CFA_UNSUPPORTED:
	case PYRITE_CFA_COUNT ... 255:
		return step_by_frame_pointer(slot, no_row(PYRITE_STACK_UNSUPPORTED));
	}
	switch (find_cfa(walk, slot, rule, behind, &cfa)) {
	case CFA_FOUND:
		return step_to_cfa(walk, slot, rule, fp_saved(rule, behind), cfa);
	case CFA_UNKNOWN:
		return step_by_frame_pointer(slot, no_row(PYRITE_STACK_UNSUPPORTED));
	case CFA_LOST:
		return PYRITE_STACK_UNSUPPORTED;
	default:
		return PYRITE_STACK_FAULT;
	}
}

/* Puts the frame into the record and goes on to its caller. */
VERIFIED_ONCE int step(__u32 slot)
{
	struct walk *walk = walk_at(slot);
	__u32 at, action;

	if (!walk)
		return PYRITE_STACK_FAULT;
	at = walk->next_frame;
	if (at >= walk->frame_limit || at >= MAX_FRAMES)
		return PYRITE_STACK_TOO_DEEP;
	/* A byte before the address lies the frame's instruction, also where a signal interrupted it and no call. */
	walk->frames[at] = walk->ip + (walk->exact && at > walk->header.kernel_frames);
	walk->next_frame = at + 1;
	/* A return address lies behind its call, which may be the last instruction of a function. */
	action = action_at(walk, slot, walk->ip - !walk->exact);
	if (action & ACTION_PLAIN)
		return step_plainly(walk, slot, action);
	return action == ACTION_END ? PYRITE_STACK_COMPLETE : step_by_rule(slot, action);
}

#endif
