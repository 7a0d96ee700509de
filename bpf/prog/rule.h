/* What to do at an address. Nearly every rule comes to "the CFA is SP or FP plus so much, the return address and perhaps FP
 * lie so far below it", which fits into 31 bits; such an action is kept in the trail, so that a frame costs little
 * memory beside its stack. The others name their rule.
 *
 *   plain:   1 | from FP | ra words - 1 (6) | fp words, 0: FP is unchanged (8) | cfa words (16)
 *   by rule: 0 | worth a copy | behind (16) | rule (14)
 *
 * Where rule is 0, there is no step by the tables, and `behind` is the enum pyrite_stack that says why: the stack ends here
 * (PYRITE_STACK_COMPLETE), or there is no row.
 */
#ifndef PYRITE_RULE_H
#define PYRITE_RULE_H

#include "search.h"
#include "walk_state.h"

#define ACTION_PLAIN (1u << 31)
#define ACTION_FROM_FP (1u << 30)
/* User space will know soon: it is worth a copy of the stack. */
#define ACTION_COPY (1u << 30)

enum {
	CFA_WORDS_BITS = 16,
	FP_WORDS_BITS = 8,
	RA_WORDS_BITS = 6,
	RULE_BITS = 14,
	WORD = 8,
};

#define RULE_MASK ((1u << RULE_BITS) - 1)
#define no_row(reason) ((__u32)(reason) << RULE_BITS)
#define ACTION_END no_row(PYRITE_STACK_COMPLETE)

static __always_inline __u32 action_rule(__u32 action)
{
	return action & RULE_MASK;
}

static __always_inline __u32 action_behind(__u32 action)
{
	return action >> RULE_BITS & 0xffff;
}

static __always_inline __u64 plain_cfa_offset(__u32 action)
{
	return (__u64)(action & 0xffff) * WORD;
}

static __always_inline __u64 plain_fp_below(__u32 action)
{
	return (__u64)(action >> CFA_WORDS_BITS & 0xff) * WORD;
}

static __always_inline __u64 plain_ra_below(__u32 action)
{
	return (__u64)((action >> (CFA_WORDS_BITS + FP_WORDS_BITS) & 0x3f) + 1) * WORD;
}

/* The rule's CFA offset so many bytes behind its row, where pushes or pops have moved it. */
static __always_inline __s64 cfa_offset_behind(const struct pyrite_rule *rule, __u32 behind)
{
	__u32 done = rule->pushes & (behind < 16 ? (1u << behind) - 1 : 0xffff);

	if (rule->cfa != PYRITE_CFA_SP)
		return rule->cfa_offset;
	done -= done >> 1 & 0x5555;
	done = (done & 0x3333) + (done >> 2 & 0x3333);
	done = (done + (done >> 4)) & 0x0f0f;
	done = (done + (done >> 8)) & 0x1f;
	return rule->saved & 0x10 ? (__s64)rule->cfa_offset - done * WORD : (__s64)rule->cfa_offset + done * WORD;
}

static __always_inline __u32 fp_saved(const struct pyrite_rule *rule, __u32 behind)
{
	return behind >= rule->fp_from ? rule->saved & 3 : PYRITE_SAVED_SAME;
}

static __always_inline __u32 ra_saved(const struct pyrite_rule *rule)
{
	return rule->saved >> 2 & 3;
}

/* How many words a save slot lies below the CFA; 0 where it does not, or by no whole number. */
static __always_inline __u32 words_below(__s16 offset)
{
	/* Without signs: BPF has no signed division. */
	__u32 bytes = offset < 0 ? -(__s32)offset : 0;

	return bytes % WORD ? 0 : bytes / WORD;
}

/* The rule as a plain action, or by its number where it is not plain. */
static __always_inline __u32 action_of(const struct pyrite_rule *rule, const struct found_row *row)
{
	__u32 by_rule = (row->behind < 0xffff ? row->behind : 0xffff) << RULE_BITS | row->rule;
	__u64 cfa_words = (__u64)cfa_offset_behind(rule, row->behind) / WORD;
	__u32 fp = fp_saved(rule, row->behind), fp_words = 0, ra_words = words_below(rule->ra_offset);

	if (rule->cfa != PYRITE_CFA_SP && rule->cfa != PYRITE_CFA_FP)
		return by_rule;
	if (rule->cfa_offset % (__u32)WORD || cfa_words == 0 || cfa_words >> CFA_WORDS_BITS)
		return by_rule;
	if (ra_saved(rule) != PYRITE_SAVED_AT_CFA || ra_words == 0 || ra_words > 1 << RA_WORDS_BITS)
		return by_rule;
	if (fp == PYRITE_SAVED_AT_CFA)
		fp_words = words_below(rule->fp_offset);
	if (fp != PYRITE_SAVED_SAME && (fp_words == 0 || fp_words >> FP_WORDS_BITS))
		return by_rule;
	return ACTION_PLAIN | (rule->cfa == PYRITE_CFA_FP ? ACTION_FROM_FP : 0) |
	       (ra_words - 1) << (CFA_WORDS_BITS + FP_WORDS_BITS) | fp_words << CFA_WORDS_BITS | (__u32)cfa_words;
}

/* The action of an address in `walk->mapping`, and in `*final` whether it holds as long as the generation does. */
static __always_inline __u32 search_action(const struct walk *walk, __u64 pc, _Bool *final)
{
	__u32 index = walk->mapping.executable;
	__u64 svma = pc - walk->mapping.bias;
	struct found_row row;

	*final = 1;
	/* Code without a file, as a JIT compiler makes it. */
	if (index == 0)
		return no_row(PYRITE_STACK_NO_UNWIND_INFO);
	*final = 0;
	const struct pyrite_executable *executable = bpf_map_lookup_elem(&executables, &index);
	if (!executable || executable->state == PYRITE_TABLE_PENDING)
		return ACTION_COPY | no_row(PYRITE_STACK_NO_UNWIND_INFO);
	if (executable->state == PYRITE_TABLE_OVER_BUDGET)
		return no_row(PYRITE_STACK_OVER_BUDGET);
	if (executable->state != PYRITE_TABLE_READY || svma >> 32 || !search_table(executable, svma, &row))
		return no_row(PYRITE_STACK_NO_UNWIND_INFO);
	const struct pyrite_rule *rule = bpf_map_lookup_elem(&rules, &row.rule);
	if (!rule || row.rule > RULE_MASK)
		return no_row(PYRITE_STACK_NO_UNWIND_INFO);
	*final = 1;
	if (row.rule == 0 || rule->cfa == PYRITE_CFA_NONE)
		return no_row(PYRITE_STACK_NO_UNWIND_INFO);
	return rule->cfa == PYRITE_CFA_END ? ACTION_END : action_of(rule, &row);
}

#endif
