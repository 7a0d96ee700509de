# Task: a kernel that is locked down, one without BTF, a user without privilege. Each must be refused in one sentence.
. "${HERE:-/pyrite}/guest/common.sh"
hear doctor $PYRITE doctor --data "$SCRATCH/data"
hear lockdown $PYRITE record -o "$SCRATCH/a.folded" --duration 1s
chmod 777 "$SCRATCH"
hear unprivileged su -s /bin/sh nobody -c "$PYRITE record -o $SCRATCH/b.folded --duration 1s"
mount -t tmpfs tmpfs /sys/kernel/btf
hear no_btf $PYRITE record -o "$SCRATCH/c.folded" --duration 1s
say end
