# Task: CPUs go and come back while they are sampled; no tick may go missing from the books.
. "${HERE:-/pyrite}/guest/common.sh"
second=/sys/devices/system/cpu/cpu1/online
"$HERE/chain-fp" plain &
"$HERE/chain-fp" plain &
start_daemon
sleep 3
metrics before
for _ in 1 2 3; do
	echo 0 >$second
	sleep 2
	metrics offline
	echo 1 >$second
	sleep 2
done
metrics online
sleep 4
metrics after
kill $daemon
wait $daemon
say "exit daemon $?"
say end
