/* Unwind tables as the BPF walker reads them and as user space writes them.
 *
 * Everything of changing size lies in chunks of 1 KiB. Chunks lie in slabs, each an array map of its own that user space
 * writes through mmap; `slabs` is the array of those maps. Chunk c is element c % 1024 of slab c / 1024.
 *
 *   processes[tgid] ─▶ pyrite_process ─▶ mapping chunks ─▶ executable index ─▶ executables[index]
 *                                                                                    │ root, depth
 *                          node chunk (depth 2) ─▶ node chunk (depth 1) ─▶ leaf chunk (depth 0)
 *                                                                                    │ row.rule
 *                                                                              rules[rule]
 *
 * Every CPU keeps what it last found in `processes`, for a look into a hash map is a look at four places that no cache
 * remembers at the next tick. What it kept holds as long as the process's stamp is the same: whoever changes a process
 * changes its stamp afterwards, user space to (a number it has never used) << 32, a program by adding 1.
 *
 * A chunk is never changed while a program may read it: user space writes new chunks, then publishes what points to them,
 * and uses the old ones again only after every program that may still see them has ended.
 */
#ifndef PYRITE_UNWIND_H
#define PYRITE_UNWIND_H

#include <linux/types.h>

#pragma clang diagnostic push
#pragma clang diagnostic error "-Wpadded"

enum {
	PYRITE_CHUNK_BYTES = 1024,
	PYRITE_SLAB_CHUNKS = 1024,
	PYRITE_MAX_SLABS = 256,
	PYRITE_LEAF_ROWS = PYRITE_CHUNK_BYTES / 4,
	PYRITE_NODE_ENTRIES = PYRITE_CHUNK_BYTES / 8,
	PYRITE_CHUNK_MAPPINGS = PYRITE_CHUNK_BYTES / 32,
	PYRITE_CHUNK_IDS = PYRITE_CHUNK_BYTES / 4,
	PYRITE_MAX_MAPPINGS = PYRITE_CHUNK_IDS * PYRITE_CHUNK_MAPPINGS,
	PYRITE_MAX_RULES = 1 << 14,
	PYRITE_MAX_EXECUTABLES = 1 << 13,
	PYRITE_MAX_PROCESSES = 1 << 14,
	PYRITE_EXEC_SLOTS = 1 << 12,
	/* A process's stamp is element tgid % PYRITE_STAMPS of `stamps`. */
	PYRITE_STAMPS = 1 << 11,
	/* The pc of unused entries at the end of a leaf or node, which sorts behind every real one. */
	PYRITE_NO_ROW_PC = 0xffff,
};

/* What holds from a code position on, up to the next row. */
struct pyrite_row {
	__u16 pc; /* svma - the pc of the node entry (or executable) that leads to this leaf; below PYRITE_NO_ROW_PC */
	__u16 rule; /* index into `rules`; rule 0 is PYRITE_CFA_NONE */
};

/* One part of an executable's code: leads to the chunk that covers svmas from `pc` on, up to the next entry. */
struct pyrite_node_entry {
	__u32 pc; /* svma - lowest svma of the executable; unused entries have 0xffffffff */
	__u32 chunk;
};

/* The unwind table of an executable. Never changes once published, save for being withdrawn. */
struct pyrite_executable {
	__u32 root; /* chunk id */
	__u32 first_pc; /* pc that the root's leaf is relative to, where depth is 0 */
	__u8 depth; /* how many node chunks lie on the way to a leaf: 0, 1 or 2 */
	__u8 state; /* enum pyrite_table_state */
	__u8 reserved[6];
};

enum pyrite_table_state {
	/* Nobody has looked at the file yet, or the table is being made. */
	PYRITE_TABLE_PENDING,
	PYRITE_TABLE_READY,
	/* The file has no unwind information, or none that could be read: frame pointers. */
	PYRITE_TABLE_ABSENT,
	/* Left out to keep the memory budget: frame pointers, and the stack says so. */
	PYRITE_TABLE_OVER_BUDGET,
};

/* An executable mapping of a process. Sorted by start, disjoint. */
struct pyrite_mapping {
	__u64 start; /* avma */
	__u64 end; /* avma behind the last byte */
	__u64 bias; /* avma - bias = svma - lowest svma of the executable */
	__u32 executable; /* index into `executables`; 0: code without a file, such as a JIT compiler's */
	__u32 reserved;
};

/* What is known of a process. */
struct pyrite_process {
	__u64 began_by_boot_ns; /* this life of the tgid had begun by then; a group leader that started later is another's */
	__u32 generation; /* of this mapping set; unique on the node, never used again */
	__u32 mappings; /* how many; at most PYRITE_MAX_MAPPINGS */
	__u32 root; /* up to 32 mappings: the chunk that holds them; more: a chunk of chunk ids, each of 32 mappings */
	__u32 reserved;
};

/* How the canonical frame address, the caller's stack pointer, is found. SP and FP are rsp and rbp, or sp and x29. */
enum pyrite_cfa {
	/* No unwind information here: try the frame pointer. */
	PYRITE_CFA_NONE,
	/* The outermost frame of a thread: the walk is complete. */
	PYRITE_CFA_END,
	PYRITE_CFA_SP, /* SP + cfa_offset */
	PYRITE_CFA_FP, /* FP + cfa_offset */
	PYRITE_CFA_SP_DEREF, /* *(SP + cfa_offset) + cfa_add */
	PYRITE_CFA_FP_DEREF, /* *(FP + cfa_offset) + cfa_add */
	PYRITE_CFA_REGISTER, /* register `reg` (DWARF number) + cfa_offset; only where all registers are known: at the leaf */
	PYRITE_CFA_REGISTER_DEREF, /* *(register + cfa_offset) + cfa_add; likewise */
	/* x86_64 procedure linkage table: SP + 8, and 8 more where (svma & 15) >= cfa_add, behind the entry's push. */
	PYRITE_CFA_PLT,
	/* A signal handler's return trampoline: the interrupted registers lie in the rt_sigframe at SP. */
	PYRITE_CFA_SIGNAL,
	/* Code that keeps a frame pointer chain and has no other information. */
	PYRITE_CFA_FRAME_POINTER,
	/* There is a rule here that this format cannot express: try the frame pointer, and say so. */
	PYRITE_CFA_UNSUPPORTED,
	/* FP + cfa_offset, where the code has left its caller's stack for another one: the CFA may lie below SP. */
	PYRITE_CFA_FP_SWITCH,
	/* SP + cfa_offset, which may be SP itself; the return address is in register `reg`: at the leaf alone, as in vfork. */
	PYRITE_CFA_RETURN_REGISTER,
	PYRITE_CFA_COUNT
};

/* Where the caller's value of a register is. */
enum pyrite_saved {
	PYRITE_SAVED_SAME, /* still in the register; for the return address on aarch64: in the link register */
	PYRITE_SAVED_AT_CFA, /* in memory, at CFA + its offset */
	PYRITE_SAVED_UNKNOWN, /* nowhere: the register's value is lost */
	/* FP alone: in memory, at the current FP + its offset, as in functions that realign the stack (CFA_FP_DEREF). */
	PYRITE_SAVED_AT_FP,
};

/* Host-wide and shared by every executable; each distinct one once.
 *
 * `pushes` folds the rows of a run of push or pop instructions into the row at its start. Bit k stands for the position
 * k + 1 bytes behind the row: from there on the CFA offset is 8 larger, or 8 smaller where `pop` is set. The rule of FP holds from
 * `fp_from` bytes behind the row on, before that FP is PYRITE_SAVED_SAME.
 */
struct pyrite_rule {
	__u8 cfa; /* enum pyrite_cfa */
	__u8 reg; /* DWARF register number for PYRITE_CFA_REGISTER, _REGISTER_DEREF and _RETURN_REGISTER */
	__u8 saved; /* enum pyrite_saved of FP | that of the return address << 2 | pop << 4 */
	__u8 fp_from;
	__s32 cfa_offset;
	__s16 cfa_add;
	__s16 fp_offset; /* from the CFA; from FP where PYRITE_SAVED_AT_FP */
	__s16 ra_offset; /* from the CFA; -8 on x86_64 */
	__u16 pushes;
};

#pragma clang diagnostic pop

#endif
