# Task: load, verify, attach, profile and unwind, with and without frame pointers, in user space and in the kernel.
. "${HERE:-/pyrite}/guest/common.sh"
hear doctor $PYRITE doctor --data "$SCRATCH/data"
profile frame_pointers 4 "$HERE/chain-fp" plain
profile no_frame_pointers 4 "$HERE/chain-nofp" library
profile kernel 3 "$HERE/syscalls" 60000 1
RECORD=--off-cpu
profile off_cpu 8 "$HERE/waits" 60000
say end
