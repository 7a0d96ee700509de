/* The mapped files of a process as libdwfl's modules, made once per mapping set. */
#ifndef PYRITE_JUDGE_MODULES_H
#define PYRITE_JUDGE_MODULES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <elfutils/libdwfl.h>

struct modules;
struct modules_by_set;

struct modules_by_set *modules_new(void);

/* Takes the executable mappings of one moment, as lines of /proc/PID/maps. */
void modules_add(struct modules_by_set *sets, uint64_t id, const char *text, size_t bytes);

struct modules *modules_find(struct modules_by_set *sets, uint64_t id);

/* The files as a process that `callbacks` can be asked about; they get `modules` as their argument, and find in it the
 * `trial` given last. NULL where libdwfl will not have it. */
Dwfl *modules_attach(struct modules *modules, pid_t tgid, const Dwfl_Thread_Callbacks *callbacks, void *trial);

void *modules_trial(struct modules *modules);

/* Whether there is call frame information for an address. */
bool modules_have_cfi(struct modules *modules, uint64_t avma);

/* Whether the information for an address says that there is no caller. */
bool modules_have_root(struct modules *modules, uint64_t avma);

/* Whether the address lies in the few instructions at the entry point of a file, which nothing calls. */
bool modules_enter_at(const struct modules *modules, uint64_t avma);

/* Whether no file is mapped at all. */
bool modules_empty(const struct modules *modules);

/* Whether the address lies in a mapping of a file that could not be opened, or is another one by now. */
bool modules_lack_file(const struct modules *modules, uint64_t avma);

/* Reads a word from a mapped file's code and read-only data. */
bool modules_read(const struct modules *modules, uint64_t avma, uint64_t *result);

#endif
