#!/bin/sh
# Has nginx take up its files again without losing a request: reload.sh [RUN_FOLDER], /tmp unless given.
#
# nginx -s reload alone closes idle connections at once, among them those whose next request is on its way: under load about one
# client in twenty reloads to two a reload see a connection end without a reply. So, for some seconds before, every reply asks for a
# new connection (api.conf).
set -eu

run_folder=${1:-/tmp}
conf=$(cd "$(dirname "$0")" && pwd)/nginx.conf
deadline_s=30
# Long enough for each busy connection to have its reply that closes it, most of the time.
closing_s=3

# Of one that was killed.
rm -f "$run_folder/closing"

# Its verdict goes to standard error.
nginx -t -q -p "$run_folder" -c "$conf" || {
    echo "reload: nginx does not take $conf; the files of before stay in force" >&2
    exit 1
}

master=$(cat "$run_folder/nginx.pid")

workers() {
    cat "/proc/$master/task/$master/children"
}

# Still taking new connections.
serves() {
    grep -q 'nginx: worker process' "/proc/$1/cmdline" 2>/dev/null && ! grep -q 'shutting down' "/proc/$1/cmdline" 2>/dev/null
}

any_serves() {
    for pid in "$@"; do
        serves "$pid" && return 0
    done
    return 1
}

before=$(workers)
trap 'rm -f "$run_folder/closing"' EXIT
# Else dash ends without the line above.
trap 'exit 1' HUP INT TERM
: >"$run_folder/closing"
sleep "$closing_s"
kill -HUP "$master"

while
    # shellcheck disable=SC2086 # a list of numbers
    any_serves $before
do
    deadline_s=$((deadline_s - 1))
    if [ "$deadline_s" -le 0 ]; then
        echo "reload: the old workers still serve; nginx's log says why" >&2
        exit 1
    fi
    sleep 1
done
