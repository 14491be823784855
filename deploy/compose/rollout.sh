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
put into rotation. Where one of this fails, that replica is started as it was, and the others are left alone. When all are
done, what is in FILE is in .env, and what that held is in .env.before.

COMPOSE is the command to use: "docker compose" unless set.

Exit status: 0 done; 1 stopped at a replica, which runs as before; 2 nothing was begun; 3 a replica is out of rotation and
needs help.
EOF
}

read -ra compose <<<"${COMPOSE:-docker compose}"
ready_timeout_s=${READY_TIMEOUT_S:-300}
replicas=(replica-1 replica-2 replica-3)
current=.env
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

# Any that is not the one to be replaced, those that come after it first: they still run what ran before.
ready_other() {
    local replica=$1 i=0 other
    while [[ ${replicas[i]} != "$replica" ]]; do i=$((i + 1)); done
    for other in "${replicas[@]:i+1}" "${replicas[@]:0:i}"; do
        if answers "$other" "$other" 5 2>/dev/null; then
            echo "$other"
            return
        fi
    done
    return 1
}

reload_nginx() {
    "${compose[@]}" exec -T nginx sh "$nginx_folder/reload.sh"
}

# With nobody out where no name is given.
in_rotation_all_but() {
    local out=${1:-nobody} file=nginx/replicas.conf
    cp -p "$file" "$file.new" # for its permissions
    sed -E "s/ down;/;/; /# $out\$/s/;/ down;/" "$file" >"$file.new"
    mv "$file.new" "$file"
    reload_nginx
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
    local replica=$1 other
    if ! other=$(ready_other "$replica"); then
        say "$replica: left alone, because no other replica is ready to answer meanwhile"
        return 1
    fi
    say "$replica: taking it out of rotation, then stopping it"
    if ! in_rotation_all_but "$replica"; then
        in_rotation_all_but || true
        say "$replica: left alone, because nginx was not reloaded"
        return 1
    fi
    "${compose[@]}" --env-file "$current" stop "$replica" || say "$replica: was not stopped; going on, since it is replaced"
    if start "$wanted" "$replica" && good "$replica" "$other"; then
        in_rotation_all_but || out_of_rotation "$replica"
        say "$replica: replaced"
        return
    fi
    say "$replica: the new one is not taken; starting it as it was"
    if start "$current" "$replica" && answers "$replica" "$other" "$ready_timeout_s"; then
        in_rotation_all_but || out_of_rotation "$replica"
        say "$replica: back as it was"
        return 1
    fi
    out_of_rotation "$replica"
}

out_of_rotation() {
    say "$1: is out of rotation; the others answer. See its log and nginx's, then run this again with a file that works"
    exit 3
}

interrupted() {
    say "interrupted; whoever is marked 'down' in nginx/replicas.conf is out of rotation. Run this again with a file that works"
    exit 3
}

refuse() {
    say "$*"
    exit 2
}

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
wanted=$(realpath --canonicalize-missing -- "${1:-$here/$current}")
cd "$here"
case ${1:-} in
    -h | --help) usage && exit ;;
    --reload-nginx) reload_nginx && exit || exit 1 ;;
    -*) usage >&2 && exit 2 ;;
esac
[[ -r $current ]] || refuse "there is no $PWD/.env; copy env.example there and change what is different here"
[[ -r $wanted ]] || refuse "$wanted cannot be read"
exec 9>.rollout.lock
flock --nonblock 9 || refuse "another rollout is under way"

trap interrupted INT TERM
for replica in "${replicas[@]}"; do
    if ! replace "$replica"; then
        say "stopped at $replica. What came before it runs with $wanted, what comes after it is untouched;"
        say "to take those back: $0 with the file of before, $here/$current"
        exit 1
    fi
done
if [[ ! $wanted -ef $current ]]; then
    cp -p "$current" .env.before
    cp "$wanted" "$current"
fi
say "done"
