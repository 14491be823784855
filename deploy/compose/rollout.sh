#!/usr/bin/env bash
# Replaces the replicas one at a time, while the others answer.
set -euo pipefail

usage() {
    cat <<'EOF'
rollout.sh [FILE]       start all replicas anew, one at a time, with the variables of FILE (like env.example), or of .env
rollout.sh --reload-nginx
                        have nginx take up its files and certificates, without a failed request

Of each replica: it is taken out of nginx's rotation, finishes what it accepted and stops; the new one must be ready within
READY_TIMEOUT_S (300), give a vector, and have vectors that may stand in one index with those of another replica; then it is
put into rotation. Where one of this fails, that replica is started with what .env says, and the others are left alone; it must
pass the same before it is put into rotation again. When all are done, what is in FILE is in .env, and what that held is in
.env.before.

Who is marked 'down' in nginx/replicas.conf is replaced first, and is in rotation once it has passed.

COMPOSE is the command to use: "docker compose" unless set.

Exit status: 0 done; 1 stopped at a replica, which runs with .env; 2 nothing was begun; 3 a replica is out of rotation and
needs help; 4 all are replaced, but .env is not written: what belongs there is in .env.new.
EOF
}

read -ra compose <<<"${COMPOSE:-docker compose}"
ready_timeout_s=${READY_TIMEOUT_S:-300}
replicas=(replica-1 replica-2 replica-3)
current=.env
# A copy of what is asked for, which may be .env.before, and may change meanwhile.
wanted=.env.new
rotation=nginx/replicas.conf
nginx_folder=/etc/sgl-embed/nginx

say() { printf 'rollout: %s\n' "$*" >&2; }

url_of() { echo "http://$1:30000"; }

# In a replica's container, where the programs are, and the network, and the key (if keys are asked for).
in_replica() {
    local replica=$1
    shift
    # shellcheck disable=SC2016 # for the shell in the container
    "${compose[@]}" exec -T "$replica" sh -c \
        'key=/etc/sgl-embed/keys/rollout.key; test ! -r $key || export SGL_EMBED_API_KEY=$(cat $key); exec "$@"' sh "$@"
}

answers() {
    local replica=$1 asked_from=$2 timeout_s=$3
    in_replica "$asked_from" python - "$(url_of "$replica")" "$timeout_s" <probe.py >&2
}

# Any in rotation that is not the one to be replaced, those that come after it first: they still run what ran before.
ready_other() {
    local replica=$1 i=0 other heard reasons=
    while [[ ${replicas[i]} != "$replica" ]]; do i=$((i + 1)); done
    for other in "${replicas[@]:i+1}" "${replicas[@]:0:i}"; do
        if is_down "$other"; then
            reasons+="$other: is marked 'down' in $rotation"$'\n'
        elif heard=$(answers "$other" "$other" 5 2>&1); then
            echo "$other"
            return
        else
            reasons+="$other: $heard"$'\n'
        fi
    done
    printf '%s' "$reasons" >&2
    return 1
}

reload_nginx() {
    "${compose[@]}" exec -T nginx sh "$nginx_folder/reload.sh"
}

is_down() { grep -q " down;.*# $1\$" "$rotation"; }

servers_in() { grep -c '^ *server ' "$1"; }

take_out() {
    edit_rotation "/# $1\$/{/ down;/!s/;/ down;/}" && is_down "$1" && reload_nginx
}

put_in() {
    edit_rotation "/# $1\$/s/ down;/;/" && ! is_down "$1" && reload_nginx
}

# As a chain, because set -e is off in conditions, and a file that was not written whole must not become nginx's.
edit_rotation() {
    cp -p "$rotation" "$rotation.new" && # for its permissions
        sed "$1" "$rotation" >"$rotation.new" &&
        [[ $(servers_in "$rotation.new") == "$(servers_in "$rotation")" ]] &&
        mv "$rotation.new" "$rotation"
}

start() {
    local file=$1 replica=$2
    "${compose[@]}" --env-file "$file" up -d --no-deps --force-recreate "$replica"
}

good() {
    local replica=$1 other=$2
    answers "$replica" "$other" "$ready_timeout_s" &&
        in_replica "$other" sgl-embed compare "$(url_of "$other")" "$(url_of "$replica")" >&2
}

# Whether the replica is a new one afterwards. Each step says what becomes of its failure: in a condition, set -e is off.
replace() {
    local replica=$1 other was_down=
    is_down "$replica" && was_down=yes
    if ! other=$(ready_other "$replica"); then
        say "$replica: left alone, because no other replica is ready to answer meanwhile"
        return 1
    fi
    say "$replica: taking it out of rotation, then stopping it"
    if ! take_out "$replica"; then
        [[ $was_down ]] || put_in "$replica" || true
        say "$replica: left alone, because it could not be taken out of $rotation, or nginx was not reloaded"
        return 1
    fi
    "${compose[@]}" --env-file "$current" stop "$replica" || say "$replica: was not stopped; going on, since it is replaced"
    if start "$wanted" "$replica" && good "$replica" "$other"; then
        put_in "$replica" || out_of_rotation "$replica"
        say "$replica: replaced"
        return
    fi
    say "$replica: the new one is not taken; starting it with $PWD/$current"
    if start "$current" "$replica" && good "$replica" "$other"; then
        put_in "$replica" || out_of_rotation "$replica"
        say "$replica: back with $PWD/$current"
        return 1
    fi
    out_of_rotation "$replica"
}

out_of_rotation() {
    say "$1: is out of rotation; the others answer. See its log and nginx's, then run this again with a file that works"
    exit 3
}

interrupted() {
    # The terminal may be gone.
    say "interrupted; whoever is marked 'down' in $rotation is out of rotation. Run this again with a file that works" || true
    exit 3
}

refuse() {
    say "$*"
    exit 2
}

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
asked=$(realpath --canonicalize-missing -- "${1:-$here/$current}")
cd "$here"
case ${1:-} in
    -h | --help) usage && exit ;;
    --reload-nginx) reload_nginx && exit || exit 1 ;;
    -*) usage >&2 && exit 2 ;;
esac
[[ -r $current ]] || refuse "there is no $PWD/.env; copy env.example there and change what is different here"
[[ -r $asked ]] || refuse "$asked cannot be read"
[[ $ready_timeout_s =~ ^[0-9]+(\.[0-9]+)?$ ]] || refuse "READY_TIMEOUT_S must be a number of seconds, not '$ready_timeout_s'"
exec 9>.rollout.lock
flock --nonblock 9 || refuse "another rollout is under way"

trap 'rm -f "$wanted"' EXIT
cp -p "$current" "$wanted" && cat "$asked" >"$wanted" || refuse "$PWD/$wanted cannot be written"

down=() in=()
for replica in "${replicas[@]}"; do
    if is_down "$replica"; then down+=("$replica"); else in+=("$replica"); fi
done
replicas=("${down[@]}" "${in[@]}")

trap interrupted HUP INT TERM
for replica in "${replicas[@]}"; do
    if ! replace "$replica"; then
        say "stopped at $replica. What came before it runs with $asked, what comes after it is untouched;"
        say "to take those back: $0 with the file of before, $here/$current"
        exit 1
    fi
done
if [[ ! $asked -ef $current ]]; then
    if ! { cp -p "$current" .env.before.new && mv .env.before.new .env.before && mv "$wanted" "$current"; }; then
        trap - EXIT
        say "all are replaced, but $PWD/$current is not written: before anything starts a replica, put $wanted in its place"
        exit 4
    fi
fi
say "done"
