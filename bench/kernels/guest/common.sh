# What the tasks share. Results are lines: a word that says what it is, then its value; kernels/report.rs reads them.
# Set by whoever runs a task: PYRITE (the program), SCRATCH (a directory), RESULTS (where to write).
HERE=${HERE:-/pyrite}
LISTEN=127.0.0.1:4040

say() { echo "$*" >>"$RESULTS"; }

# Runs a command, and says how it ended and what it printed, under a name.
hear() {
	name=$1
	shift
	"$@" >"$SCRATCH/$name.said" 2>&1
	say "exit $name $?"
	sed "s/^/said $name /" "$SCRATCH/$name.said" >>"$RESULTS"
}

# Profiles a command for some seconds, with the flags in RECORD. Its verifier statistics and stacks are results.
profile() {
	name=$1
	seconds=$2
	shift 2
	rm -f "$SCRATCH/stats"
	hear "$name" env LD_PRELOAD="$HERE/verifier_stats.so" VERIFIER_STATS="$SCRATCH/stats" VERIFIER_LOG="$SCRATCH/log" \
		$PYRITE record $RECORD -o "$SCRATCH/$name.folded" -- \
		sh -c 'unset LD_PRELOAD; "$@" & sleep '"$seconds"'; kill $!' sh "$@"
	if [ -e "$SCRATCH/log" ]; then
		tail -n 1000 "$SCRATCH/log" | sed 's/^/log /' >>"$RESULTS"
		rm "$SCRATCH/log"
	fi
	[ -e "$SCRATCH/stats" ] && sort -u "$SCRATCH/stats" >>"$RESULTS"
	[ -e "$SCRATCH/$name.folded" ] && sed "s/^/stack $name /" "$SCRATCH/$name.folded" >>"$RESULTS"
	# The last line of the file has no line end.
	say
}

# Starts Pyrite as a daemon and waits until it answers.
start_daemon() {
	mkdir -p "$SCRATCH/data"
	$PYRITE run --data "$SCRATCH/data" --listen $LISTEN >"$SCRATCH/daemon.log" 2>&1 &
	daemon=$!
	for _ in $(seq 100); do
		if wget -q -O /dev/null "http://$LISTEN/metrics"; then return; fi
		sleep 0.2
	done
	sed 's/^/said daemon /' "$SCRATCH/daemon.log" >>"$RESULTS"
}

# The sampler's metrics at this moment, under a name.
metrics() {
	say "metric $1 uptime $(cut -d' ' -f1 /proc/uptime)"
	wget -q -O - "http://$LISTEN/metrics" | sed -n "s/^pyrite_sampler_/metric $1 /p" >>"$RESULTS"
}

say "kernel $(uname -r)"
say "uptime $(cut -d' ' -f1 /proc/uptime)"
