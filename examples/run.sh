#!/bin/sh
# Starts one execution for a scope, shows its log lines as they come, and prints its result as the last line.
# Usage: run.sh [URL] SCOPE [PARAMETERS]
#   URL         of the service; without it, $API_URL, else http://localhost:8080
#   PARAMETERS  a JSON object
# Environment:
#   IDEMPOTENCY_KEY  the key of the start, if an earlier call is repeated; otherwise a new one is made
#   PROCESS          the name of the process, if the service has several
#   ON_RUNNING       allow, reject, join or replace
#   TOKEN            a bearer token, or
#   TOKEN_COMMAND    a command that prints one; it is called before each request
#   GIVE_UP_SECONDS  how long to go on when the service cannot be reached (600)
# Exit code: 0 it succeeded, 1 it failed, 2 it was cancelled, 3 it could not be started, 4 what became of it is unknown.
# Needs a POSIX shell and curl. Log lines and the result go to standard output, everything else to standard error.
set -u
export LC_ALL=C # awk counts bytes

say() { printf '%s\n' "$*" >&2; }

finish() {
  code=$1
  shift
  [ $# = 0 ] || say "$*"
  exit "$code"
}

case ${1-} in
  http://* | https://*) url=${1%/} && shift ;;
  *) url=${API_URL:-http://localhost:8080} && url=${url%/} ;;
esac
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "$1" = --help ]; then
  sed -n '2,/^set/{s/^# \{0,1\}//p;}' "$0" >&2
  exit 3
fi
scope=$1 parameters=${2:-}
give_up=${GIVE_UP_SECONDS:-600}
key=${IDEMPOTENCY_KEY:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}

umask 077
dir=$(mktemp -d) || exit 3
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Prints the value of one field of the JSON object on standard input: a string as its text, anything else as JSON.
# Control characters stay escaped, so that a text is one line and cannot steer the terminal.
field() {
  awk -v name="$1" '
    # The position after the string, object, array or scalar that begins at `at`.
    function after(at,   c, depth, quoted) {
      for (; at <= length(json); at++) {
        c = substr(json, at, 1)
        if (quoted) {
          if (c == "\\") at++
          else if (c == "\"") { quoted = 0; if (!depth) return at + 1 }
        } else if (c == "\"") quoted = 1
        else if (c ~ /[[{]/) depth++
        else if (c ~ /[]}]/) { if (!depth) return at; if (!--depth) return at + 1 }
        else if (c ~ /[,: \n]/ && !depth) return at
      }
      return at
    }
    function space(at) { while (substr(json, at, 1) ~ /[ \n]/) at++; return at }
    { json = json $0 "\n" }
    END {
      at = index(json, "{") + 1
      while (substr(json, at = space(at), 1) == "\"") {
        end = after(at); key = substr(json, at + 1, end - at - 2)
        at = space(space(end) + 1); end = after(at)
        if (key == name) {
          value = substr(json, at, end - at)
          if (value ~ /^"/) {
            value = substr(value, 2, length(value) - 2)
            gsub(/\\\\/, "\001", value); gsub(/\\"/, "\"", value); gsub(/\\\//, "/", value); gsub(/\\t/, "\t", value)
            gsub(/\001/, "\\", value)
          }
          print value
          exit
        }
        at = space(end) + 1
      }
    }'
}

# Calls curl with the token. It is in a file, because the arguments of a program can be seen by others.
call() {
  token=${TOKEN:-}
  if [ -n "${TOKEN_COMMAND:-}" ]; then token=$(sh -c "$TOKEN_COMMAND") || say "TOKEN_COMMAND failed"; fi
  : >"$dir/headers"
  [ -z "$token" ] || printf 'authorization: Bearer %s\n' "$token" >"$dir/headers"
  curl --silent --show-error --globoff --path-as-is --connect-timeout 10 --header "@$dir/headers" "$@" 2>"$dir/error"
}

seconds() { date +%s; }

# Waits before the next attempt: as long as the service asks for, else longer each time.
pause() {
  after=$(sed -n 's/^[Rr]etry-[Aa]fter: *\([0-9][0-9]*\).*/\1/p' "$dir/answer" 2>/dev/null | tail -n 1)
  doublings=$((attempt < 4 ? attempt : 4))
  sleep "${after:-$((1 << doublings >> 1))}"
}

# Sends the start with its key until there is an answer to rely on.
start() {
  began=$(seconds) attempt=0
  outcome=3 # the exit code, should it not be answered: 4 as soon as something may have been started
  path=/scopes/$scope/process${PROCESS:+/$PROCESS}${ON_RUNNING:+?on_running=$ON_RUNNING}
  set -- --request POST --header "idempotency-key: $key" --max-time 90
  [ -z "$parameters" ] || set -- "$@" --header 'content-type: application/json' --data-raw "$parameters"
  while :; do
    : >"$dir/answer"
    : >"$dir/body"
    status=$(call "$@" --dump-header "$dir/answer" --output "$dir/body" --write-out '%{http_code}' "$url$path")
    sent=$?
    [ $sent = 0 ] || status=000 # the answer broke off
    case $status in
      200 | 202)
        run=$(tr -d '\r' <"$dir/answer" | sed -n 's/^[Ll]ocation: *//p' | tail -n 1)
        [ -z "$run" ] || return 0
        status=000 # its head broke off
        ;;
    esac
    type=$(field type <"$dir/body") detail=$(field detail <"$dir/body")
    case $sent:$status:$type in
      3:*) finish 3 "$url$path is not a URL." ;;
      [67]:*) detail="$url cannot be reached." ;; # nothing was sent
      *:*:/problems/scope-busy) finish $outcome "$detail" ;;
      *:000:* | *:504:*) outcome=4 ;; # it may have been started
      *:*:/problems/*)
        [ "$(field retryable <"$dir/body")" = true ] || finish $outcome "$detail"
        ;;
      *:429:* | *:5??:*) outcome=4 ;; # something between here and the service
      *) finish $outcome "$url answered $status: is it the service?" ;;
    esac
    [ $(($(seconds) - began)) -lt "$give_up" ] ||
      finish $outcome "Given up: ${detail:-no answer.} Repeat it with IDEMPOTENCY_KEY=$key."
    attempt=$((attempt + 1))
    say "${detail:-No answer.} Trying again."
    pause
  done
}

# Reads the events of one stream from standard input. What must outlast this subshell is written to files.
events() {
  event='' data='' id=''
  while IFS= read -r line; do
    case $line in
      'event: '*) event=${line#event: } ;;
      'data: '*) data=${line#data: } ;;
      'id: '*) id=${line#id: } ;;
      'status: '*) printf '%s\n' "${line#status: }" >"$dir/status" ;;
      '')
        [ -z "$id" ] || printf 'last-event-id: %s\n' "$id" >"$dir/place"
        case $event in
          log) show "$data" ;;
          end) printf '%s\n' "$data" >"$dir/end" ;;
        esac
        [ -z "$event" ] || : >"$dir/alive"
        event='' data='' id=''
        ;;
    esac
  done
}

show() {
  case $1 in
    *\\*) printf '%s\n' "$1" | field text ;;
    *) text=${1#*'"text":"'} && printf '%s\n' "${text%%'"'*}" ;;
  esac
}

# Follows the execution to its end, over connections that break. A connection is renewed every five minutes, so that one
# which has died without a sign is noticed.
follow() {
  began=$(seconds) attempt=0
  : >"$dir/place"
  : >"$dir/status"
  while [ ! -s "$dir/end" ]; do
    rm -f "$dir/alive"
    call --no-buffer --max-time 300 --header "@$dir/place" --header 'accept: text/event-stream' \
      --dump-header "$dir/answer" --write-out '\nstatus: %{http_code}\n' "$url$run/events" | events
    [ ! -s "$dir/end" ] || break
    status=$(cat "$dir/status")
    [ ! -e "$dir/alive" ] || { began=$(seconds) attempt=0; }
    case $status in
      204) call --output "$dir/end" --fail "$url$run" && break ;;
      400) : >"$dir/place" ;; # the place is no longer known: from the beginning
      401) [ -n "${TOKEN_COMMAND:-}" ] || finish 4 "The token is no longer valid; the execution goes on: $url$run" ;;
      403) finish 4 "The token does not allow to read $run." ;;
      404) [ $(($(seconds) - began)) -lt 30 ] || finish 4 "$url$run does not exist any more." ;;
    esac
    [ $(($(seconds) - began)) -lt "$give_up" ] || finish 4 "Given up; the execution goes on: $url$run"
    attempt=$((attempt + 1))
    pause
  done
}

# Prints the result, if the job reported one: of one task its value, of several tasks all of them.
result() {
  attempt=0
  while [ $attempt -lt 5 ]; do
    : >"$dir/body"
    status=$(call --max-time 30 --dump-header "$dir/answer" --output "$dir/body" --write-out '%{http_code}' "$url$run/result")
    case $status in
      200)
        results=$(field results <"$dir/body")
        if [ "$(field tasks <"$dir/end" | field total)" = 1 ]; then
          printf '%s\n' "${results#?}" | field value
        else
          printf '%s\n' "$results"
        fi
        return
        ;;
      404) return ;;
    esac
    [ "$(field retryable <"$dir/body")" != false ] || break
    attempt=$((attempt + 1))
    pause
  done
  say "The result could not be read: $url$run/result"
}

start
say "started $url$run"
follow
result
case $(field state <"$dir/end") in
  succeeded) finish 0 ;;
  failed) finish 1 "failed: $(field message <"$dir/end")" ;;
  cancelled) finish 2 "cancelled" ;;
  *) finish 4 "The execution ended in a state that is not known here." ;;
esac
