#!/usr/bin/env bash
# Tries a deployed service from outside, as its callers use it, and prints a table. It takes up to ten minutes on Google Cloud.
#
# Usage: [TOKEN=…] [SCOPE=smoke] [PATIENCE=300] examples/smoke.sh URL
#   TOKEN     a bearer token: $(gcloud auth print-identity-token) with AUTH=iam
#   SCOPE     the scope that the starts are for; the token has to allow start, read and cancel on it
#   PATIENCE  seconds that an execution may take
# It starts five executions of the sample job (test-job). Any job will do that runs for a few seconds, needs no parameters and
# prints its SCOPE. The last lines of the table are measured: how late Cloud Run lists and Cloud Logging shows, here.
set -euo pipefail

url=${1:?the URL of the service, such as https://test-invoke-job-api-svc-….run.app}
url=${url%/}
scope=${SCOPE:-smoke} patience=${PATIENCE:-300} failures=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
key="smoke-$(date +%s)-$$"

# VERDICT WHAT FOUND
row() {
  printf '%-7s %-58s %s\n' "$1" "$2" "$3"
  [ "$1" != FAILED ] || failures=$((failures + 1))
}

# METHOD PATH [CURL ARGUMENT…]: leaves the status in $status, the head and the body in files, and the seconds in $took.
call() {
  local method=$1 path=$2 authorization=()
  shift 2
  [ -z "${TOKEN:-}" ] || authorization=(--header "Authorization: Bearer $TOKEN")
  read -r status took < <(curl --silent --show-error --max-time 90 --request "$method" --dump-header "$work/head" --output "$work/body" \
    --write-out '%{http_code} %{time_total}\n' ${authorization[@]+"${authorization[@]}"} "$@" "$url$path" || echo '000 0')
}

# NAME: a header of the last answer.
header() { tr -d '\r' <"$work/head" | sed -n "s/^$1: //Ip" | head -n 1; }

# NAME: a text of the last answer's JSON.
field() { sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" "$work/body" | head -n 1; }

# WHAT STATUS: a row about the last answer's status.
answers() {
  if [ "$status" = "$2" ]; then row ok "$1" "$status in $took s"; else row FAILED "$1" "$status instead of $2: $(head -c 300 "$work/body")"; fi
}

# WHAT EXPECTED FOUND
same() {
  if [ "$2" = "$3" ]; then row ok "$1" "$3"; else row FAILED "$1" "$3 instead of $2"; fi
}

# SECONDS FUNCTION: calls the function each second until it succeeds; the seconds that it took are in $waited.
eventually() {
  local began=$SECONDS
  until "$2"; do
    if [ $((SECONDS - began)) -ge "$1" ]; then waited="not in $1"; return 1; fi
    sleep 1
  done
  waited=$((SECONDS - began))
}

# [CURL ARGUMENT…]: starts one, and leaves its path in $run.
start() {
  call POST "/scopes/$scope/process" "$@"
  run=$(header location)
}

# FOLDER [CURL ARGUMENT…]: starts one beside others, and leaves its path in the folder's file `run`.
start_apart() {
  local work=$1
  shift
  mkdir "$work"
  start "$@"
  printf '%s\n' "$run" >"$work/run"
}

is_listed() { call GET "/scopes/$scope/executions?limit=20" && grep -q "\"${run##*/}\"" "$work/body"; }
has_ended() { call GET "$run" && case $(field state) in succeeded | failed | cancelled) ;; *) false ;; esac; }
has_its_line() { call GET "$run/logs" --header 'Accept: text/plain' && grep -q "$scope" "$work/body"; }

printf '%-7s %-58s %s\n' '' "$url" "scope $scope"
call GET /health
[ "$status" != 000 ] || { printf '%s cannot be reached\n' "$url" >&2 && exit 1; }
answers 'it is alive' 200
call GET /ready && answers 'it can serve' 200
call GET /openapi.json && answers 'it describes itself' 200

start --header "Idempotency-Key: $key"
answers 'a start is accepted' 202
first=$run
case $first in "/scopes/$scope/executions/"*) row ok 'it has a path to follow' "$first" ;; *) row FAILED 'it has a path to follow' "$first" ;; esac
if eventually 60 is_listed; then listed=$waited; else listed=$waited && row FAILED 'it is listed' "$waited s"; fi
start --header "Idempotency-Key: $key"
same 'the same key answers with the same execution' "$first" "$run"
same 'and says so' true "$(header idempotent-replayed)"
call POST "/scopes/$scope/process?on_running=reject" --header "Idempotency-Key: $key" && answers 'the same key with another query is refused' 422
call GET "${first/\/scopes\/$scope\///scopes/$scope-other/}"
case $status in 404 | 403) row ok 'another scope does not see it' "$status" ;; *) row FAILED 'another scope does not see it' "$status" ;; esac

run=$first
if eventually "$patience" has_ended; then same 'it ends well' succeeded "$(field state)"; else row FAILED 'it ends' "$waited s"; fi
if eventually 90 has_its_line; then shown=$waited; else shown=$waited && row FAILED 'its lines are shown' "$waited s"; fi
call GET "$first/events" --max-time 60
same 'its events end' 1 "$(grep -c '^event: end$' "$work/body" || true)"
start --header "Idempotency-Key: $key"
same 'the key still answers with it' "$first" "$run"

# Ten at one time with one key are one execution.
for caller in 1 2 3 4 5 6 7 8 9 10; do
  start_apart "$work/$caller" --header "Idempotency-Key: $key-ten" --retry 5 --retry-all-errors &
done
wait
same 'ten callers at one time with one key start one' 1 "$(sort -u "$work"/*/run | grep -c . || true)"

# The last one runs by now, or is about to.
run=$(head -n 1 "$work/1/run")
call POST "/scopes/$scope/process?on_running=reject" && answers 'a busy scope refuses another start' 409
call POST "/scopes/$scope/process?on_running=join" && answers 'or joins the one that runs' 200
call POST "$run/cancel" && answers 'it can be cancelled' 202
if eventually "$patience" has_ended; then same 'and is cancelled then' cancelled "$(field state)"; else row FAILED 'and ends' "$waited s"; fi

start
second=$run
start
case $run in "$second") row FAILED 'without a key every start is one of its own' "$run twice" ;; *) row ok 'without a key every start is one of its own' '' ;; esac
call POST "$run/cancel" && call POST "$second/cancel"

call GET "/scopes/$scope/executions/nobody-00000" && answers 'an execution that never was is not found' 404
call POST "/scopes/-$scope/process" && answers 'what is no scope is refused' 400
call POST "/scopes/$scope/process" --header 'Content-Type: application/json' --data '{"no_such_parameter": 1}' && answers 'an undeclared parameter is refused' 422

row '' 'an execution is listed so many seconds after the answer' "$listed"
row '' 'its lines are shown so many seconds after its end' "$shown"
printf '\n%s\n' "$([ "$failures" = 0 ] && echo 'Everything is as it should be.' || echo "$failures failed.")"
[ "$failures" = 0 ]
