#!/pyrite/busybox sh
# Task: under a real systemd, units that burn CPU are services with their units' names. Run by pyrite-check.service.
PATH=/usr/bin:/usr/sbin
for tool in wget stty; do ln -s /pyrite/busybox /usr/bin/$tool; done
stty -F /dev/ttyS1 raw
# Pyrite brings its own libraries: Debian's may be older than those it was built with.
PYRITE="/pyrite/lib/ld-linux-x86-64.so.2 --library-path /pyrite/lib /pyrite/pyrite"
SCRATCH=/tmp RESULTS=/dev/ttyS1
. /pyrite/guest/common.sh
start=$(date +%s)
start_daemon
query='{"profileTypeID":"process_cpu:cpu:nanoseconds:cpu:nanoseconds","labelSelector":"{}","groupBy":["service_name"],"step":15'
query="$query,\"start\":$((start - 60))000,\"end\":$((start + 120))000}"
# A translated guest names its first stacks late; some seconds after both are there each has used some CPU.
seen=0
for _ in $(seq 25); do
	sleep 3
	series=$(wget -q -O - --header 'Content-Type: application/json' --post-data "$query" \
		http://$LISTEN/querier.v1.QuerierService/SelectSeries)
	case $series in *burn-left*burn-right* | *burn-right*burn-left*) seen=$((seen + 1)) ;; esac
	[ $seen -ge 4 ] && break
done
say "series $series"
say end
echo o >/proc/sysrq-trigger
sleep 60
