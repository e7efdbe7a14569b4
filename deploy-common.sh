# shellcheck shell=bash disable=SC2034 # what is unused here is for the scripts that source this
# What build-deploy-job.sh and build-deploy-api.sh share: checks, and steps that print themselves. Sourced, not run.
# Kept to bash 3.2, which is what macOS has: there "${a[@]}" of an empty array is an error, so it is written ${a[@]+"${a[@]}"}.

set -euo pipefail
export CLOUDSDK_CORE_DISABLE_PROMPTS=1 # a question in the middle of a script is a script that hangs
script=${0##*/}
dry_run=        # --dry-run: nothing is run, neither reads nor changes
only_print=     # reads are run, changes are only printed
confirmed=      # --yes
undeploy=       # --undeploy
check_only=     # --check
env_file=       # --env FILE
complaints=()   # what is wrong with the variables, a line each, the cures indented
differences=()  # what this deploy changes of what is deployed, a line each

# WHAT IS WRONG [WHAT CURES IT]…
fail() {
  printf '%s: %s\n' "$script" "$1" >&2
  shift
  [ $# = 0 ] || printf '    %s\n' "$@" >&2
  exit 1
}

# WHAT IS WRONG [WHAT CURES IT]…: notes it for `fail_with_complaints`, so that everything is told at once.
complain() {
  complaints+=("$script: $1")
  shift
  local cure
  for cure; do complaints+=("    $cure"); done
}

fail_with_complaints() {
  [ ${#complaints[@]} != 0 ] || return 0
  printf '%s\n' "${complaints[@]}" >&2
  exit 1
}

# COMMAND…: prints it as it can be pasted.
show() {
  local word line=+
  for word; do
    case $word in
      *\'* | *[[:cntrl:]]*) printf -v word %q "$word" ;;
      '' | *[!A-Za-z0-9_@%+=:,./-]*) word="'$word'" ;;
    esac
    line="$line $word"
  done
  printf '%s\n' "$line" >&2
}

# COMMAND…: prints it and runs it, unless changes are only printed.
run() {
  show "$@"
  [ -n "$dry_run$only_print" ] || "$@"
}

# VARIABLE PLACEHOLDER COMMAND…: puts the command's output, or with --dry-run the placeholder, in the variable.
ask() {
  local variable=$1 output=$2
  shift 2
  show "$@"
  [ -n "$dry_run" ] || output=$("$@") || fail "the command above failed; its message names the cause"
  printf -v "$variable" %s "$output"
}

# DESCRIBE COMMAND…: whether it finds its object; its output is left in $description. Any other failure ends the script.
found() {
  local errors
  errors=$(mktemp)
  if description=$("$@" 2>"$errors"); then
    rm -f "$errors"
    return 0
  fi
  description=$(cat "$errors")
  rm -f "$errors"
  case $description in *NOT_FOUND* | *'Cannot find'*) return 1 ;; esac
  fail "the command above failed:" "$description"
}

# DESCRIBE COMMAND…: for what has to be there already. --dry-run takes it to be there.
present() {
  show "$@"
  [ -n "$dry_run" ] || found "$@"
}

# DESCRIBE COMMAND…: for what the script creates where it is missing. --dry-run takes it to be missing.
absent() {
  show "$@"
  [ -z "$dry_run" ] || printf '# if that finds nothing:\n' >&2
  [ -n "$dry_run" ] || ! found "$@"
}

# The arguments of both scripts; --check is the api's alone.
parse_arguments() {
  while [ $# -gt 0 ]; do
    case $1 in
      --dry-run) dry_run=1 ;;
      --yes) confirmed=1 ;;
      --undeploy) undeploy=1 ;;
      --env=*)
        env_file=${1#--env=}
        [ -n "$env_file" ] || fail '--env needs the name of a file' "./$script --env=staging.env"
        ;;
      --env)
        [ $# -gt 1 ] || fail '--env needs the name of a file' "./$script --env staging.env"
        env_file=$2
        shift
        ;;
      --check)
        [ "$script" = build-deploy-api.sh ] || fail 'unknown argument --check' "./$script --help"
        check_only=1
        ;;
      --help | -h) usage && exit 0 ;;
      *) fail "unknown argument $(printf %q "$1")" "./$script --help" ;;
    esac
    shift
  done
}

# The variables that deploy.env may set, besides API__…. IMAGE is none of them: an image is one script's, the file is both's.
file_variables='PROJECT_ID REPOSITORY REGISTRY_REGION RUNTIME_REGION REVISION LABELS
  JOB JOB_IMAGE JOB_ACCOUNT DOCKERFILE TASKS MAX_RETRIES TASK_TIMEOUT
  SERVICE API_IMAGE API_ACCOUNT ROLE JOBS AUTH STORE FIRESTORE_LOCATION MAX_INSTANCES MIN_INSTANCES CONCURRENCY MEMORY
  CONFIG_SECRET SECRETS'

# Reads deploy.env, or the file of --env, whose name is relative to where the script was called. What the environment has
# already, be it empty, wins. The file is data: no shell looks at it.
read_env_file() {
  local line name number=0
  # shellcheck disable=SC2154 # the scripts that source this set called_from
  case $env_file in
    '') [ -e deploy.env ] || return 0 && env_file=deploy.env ;;
    /*) ;;
    *) env_file=$called_from/$env_file ;;
  esac
  if ! [ -f "$env_file" ] || ! [ -r "$env_file" ]; then
    fail "the file $(printf %q "$env_file") cannot be read" 'cp deploy.env.example deploy.env'
  fi
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line=${line%$'\r'}
    case $line in '' | '#'*) continue ;; esac
    name=${line%%=*}
    if [ "$name" = "$line" ] || ! [[ $name =~ ^[A-Z][A-Z0-9_]*$ ]]; then
      complain "line $number of $env_file is not NAME=VALUE" 'cat deploy.env.example'
    elif ! may_be_in_file "$name"; then
      complain "line $number of $env_file sets $name, which these scripts do not read from a file" 'cat deploy.env.example'
    elif [ -z "${!name+set}" ]; then
      export "$name=$(unquoted "${line#*=}")"
    fi
  done <"$env_file"
}

may_be_in_file() {
  case $1 in API__*) return 0 ;; esac
  case " ${file_variables//$'\n'/ } " in *" $1 "*) return 0 ;; esac
  return 1
}

# VALUE: without the quotes around it, if there are any.
unquoted() {
  local value=$1
  case $value in
    \"*\" | \'*\') [ ${#value} -lt 2 ] || value=${value:1:${#value}-2} ;;
  esac
  printf %s "$value"
}

# VARIABLE PATTERN EXAMPLE: complains unless the variable's whole value matches. Values become arguments and parts of
# resource names, so no check may be left to the command that gets them.
check() {
  local value=${!1:-}
  if [ -z "$value" ]; then
    complain "$1 is not set" "export $1=$3"
  elif ! is_of_form "$value" "$2"; then
    complain "$1=$(printf %q "$value") is not of the form $2" "export $1=$3"
  fi
}

# VALUE PATTERN
is_of_form() {
  local LC_ALL=C # [a-z] is 26 letters
  [[ $1 =~ ^($2)$ ]]
}

# VARIABLE PATTERN EXAMPLE: for one that may be empty.
check_if_set() { [ -z "${!1:-}" ] || check "$@"; }

service_name='[a-z]([a-z0-9-]{0,47}[a-z0-9])?' # a Cloud Run service or job
account_name='[a-z][a-z0-9-]{4,28}[a-z0-9]' # a service account, before the @
image_name='[a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?' # one component of an image's name
image_reference='[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9._-]+)+(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?'
secret_version='[A-Za-z0-9_-]{1,255}:([1-9][0-9]*|latest)'
label='[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}'

check_common() {
  check PROJECT_ID '[a-z][a-z0-9-]{4,28}[a-z0-9]' my-project
  [ -n "$IMAGE$undeploy$check_only" ] || check REPOSITORY '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' my-repository
  [ -n "$IMAGE$undeploy$check_only" ] || check REGISTRY_REGION '[a-z]{2,20}(-[a-z]{2,20}[0-9]{1,2})?' us-central1
  check RUNTIME_REGION '[a-z]{2,20}-[a-z]{2,20}[0-9]{1,2}' us-central1
  check_if_set IMAGE "$image_reference" us-central1-docker.pkg.dev/my-project/images/my-job@sha256:…
  check_if_set LABELS "$label(,$label)*" team=billing,stage=production
}

# API…: the tools, the login, the enabled APIs and the repository that a deploy needs.
check_prerequisites() {
  if [ -z "$dry_run" ]; then
    [ -n "$IMAGE" ] || check_docker
    check_gcloud
  fi
  check_services "$@"
  [ -z "$IMAGE" ] || return 0 # built and pushed by somebody else
  local repository=("$REPOSITORY" "--location=$REGISTRY_REGION" "--project=$PROJECT_ID")
  present gcloud artifacts repositories describe "${repository[@]}" --format='value(name)' ||
    fail "there is no repository $REPOSITORY in $REGISTRY_REGION" \
      "gcloud artifacts repositories create ${repository[*]} --repository-format=docker"
}

check_docker() {
  command -v docker >/dev/null || fail 'docker is not installed' 'https://docs.docker.com/get-docker/'
  docker buildx version >/dev/null 2>&1 || fail 'docker has no buildx' 'https://docs.docker.com/go/buildx/'
}

check_gcloud() {
  command -v gcloud >/dev/null || fail 'gcloud is not installed' 'https://cloud.google.com/sdk/docs/install'
  gcloud auth print-access-token >/dev/null 2>&1 || fail 'gcloud is not logged in' 'gcloud auth login'
}

check_services() {
  local enabled service missing=
  ask enabled "$(printf '%s\n' "$@")" gcloud services list --enabled "--project=$PROJECT_ID" --format='value(config.name)'
  for service; do
    case $'\n'$enabled$'\n' in *$'\n'$service$'\n'*) ;; *) missing="$missing $service" ;; esac
  done
  [ -z "$missing" ] || fail "APIs that are not enabled:$missing" "gcloud services enable$missing --project=$PROJECT_ID"
}

# NAME DEPLOYED WANTED: notes a difference; what is deployed or wanted may be nothing.
compare() {
  [ "$2" != "$3" ] || return 0
  if [ -z "$3" ]; then
    differences+=("$1: $(readable "$2") would be lost")
  elif [ -z "$2" ]; then
    differences+=("$1: $(readable "$3") is added")
  else
    differences+=("$1: $(readable "$2") becomes $(readable "$3")")
  fi
}

# VALUE: on one line.
readable() {
  case $1 in *[[:cntrl:]]*) printf %q "$1" ;; *) printf %s "$1" ;; esac
}

# WHAT: prints the differences, and stops unless they are wanted.
confirm_differences() {
  [ ${#differences[@]} != 0 ] || return 0
  printf '\n%s is deployed already. This deploy changes:\n' "$1" >&2
  printf '  %s\n' "${differences[@]}" >&2
  printf '\n' >&2
  confirm 'nothing was changed' 'Put what has to stay into deploy.env, or repeat the command with --yes.'
}

# WHAT IS TRUE IF NOT [WHAT TO DO]…: asks on a terminal; without one only --yes is a yes.
confirm() {
  local answer=
  [ -z "$confirmed" ] || return 0
  if ! [ -t 0 ] || ! [ -t 2 ]; then fail "$@"; fi
  read -r -p 'Go on? [y/N] ' answer || true
  case $answer in [yY] | [yY]es) ;; *) fail "$@" ;; esac
}

# IMAGE: its name without tag and digest.
repository_of() {
  local name=${1%%@*}
  case ${name##*/} in *:*) name=${name%:*} ;; esac
  printf %s "$name"
}

# ACCOUNT DISPLAY-NAME
ensure_service_account() {
  absent gcloud iam service-accounts describe "$1@$PROJECT_ID.iam.gserviceaccount.com" "--project=$PROJECT_ID" || return 0
  run gcloud iam service-accounts create "$1" "--display-name=$2" "--project=$PROJECT_ID"
}

# MEMBER ROLE CONDITION GROUP… -- RESOURCE…: binds the role on the resource, as in `grant M R '' run jobs -- my-job --region=R`.
# CONDITION is an expression of IAM, or empty.
grant() {
  local member=$1 role=$2 condition=$3 group=() bound filter
  shift 3
  while [ "$1" != -- ]; do group+=("$1") && shift; done
  shift
  filter="bindings.role=$role AND bindings.members=$member AND "
  if [ -n "$condition" ]; then filter+='bindings.condition:*'; else filter+='NOT bindings.condition:*'; fi
  ask bound '' gcloud "${group[@]}" get-iam-policy "$@" --flatten='bindings[].members' \
    --format='value(bindings.role,bindings.condition.expression)' "--filter=$filter"
  case $'\n'$bound$'\n' in *$'\n'"$role"$'\n'* | *$'\n'"$role"$'\t'"$condition"$'\n'*) return 0 ;; esac
  [ -z "$dry_run" ] || printf '# if that finds nothing:\n' >&2
  # Only a project's policy can already have conditions, and then gcloud insists on being told that this binding has none.
  if [ -n "$condition" ]; then
    set -- "$@" "--condition=expression=$condition,title=$condition_title"
  elif [ "${group[*]}" = projects ]; then
    set -- "$@" --condition=None
  fi
  patiently gcloud "${group[@]}" add-iam-policy-binding "$@" "--member=$member" "--role=$role" --format=none
}

condition_title=one-database # the only condition that the scripts use

# MEMBER ROLE FILTER GROUP… -- RESOURCE…: takes the role away again, with every condition that FILTER (or '') lets pass.
revoke() {
  local member=$1 role=$2 filter=$3 group=() bound
  shift 3
  while [ "$1" != -- ]; do group+=("$1") && shift; done
  shift
  ask bound '' gcloud "${group[@]}" get-iam-policy "$@" --flatten='bindings[].members' --format='value(bindings.role)' \
    "--filter=bindings.role=$role AND bindings.members=$member${filter:+ AND $filter}"
  [ -n "$bound" ] || return 0
  if [ -n "$filter" ]; then
    set -- "$@" --condition=None
  elif [ "${group[*]}" = projects ]; then
    set -- "$@" --all
  fi
  run gcloud "${group[@]}" remove-iam-policy-binding "$@" "--member=$member" "--role=$role" --format=none
}

# COMMAND…: runs it; for a minute again while it says that something does not exist. IAM forgets what it has just created.
patiently() {
  local errors attempt
  show "$@"
  [ -z "$dry_run" ] || return 0
  for attempt in 1 2 3 4 5 6 7; do
    errors=$("$@" 2>&1 >/dev/null) && return 0
    case $errors in *'does not exist'*) ;; *) break ;; esac
    [ "$attempt" = 7 ] || sleep 10 # seconds
  done
  fail 'the command above failed:' "$errors"
}

# DOCKERFILE NAME: builds and pushes the image; $image is then its name by digest, which no later push can change.
# With IMAGE nothing is built: that is how what was tried in one project is deployed in another.
build_and_push() {
  local name="$REGISTRY_REGION-docker.pkg.dev/$PROJECT_ID/$REPOSITORY/$2" metadata="target/$2.json" context
  image=$IMAGE
  [ -z "$IMAGE" ] || return 0
  case $1 in */*) context=${1%/*} ;; *) context=. ;; esac
  find_origin
  run mkdir -p target
  run docker buildx build --push --platform=linux/amd64 "--file=$1" "--tag=$name:$REVISION" \
    "--build-arg=REVISION=$REVISION" "--build-arg=SOURCE=$origin" "--build-arg=VERSION=$version" \
    "--metadata-file=$metadata" "$context" ||
    fail 'the image was not built and pushed; if the registry denied it:' \
      "gcloud auth configure-docker $REGISTRY_REGION-docker.pkg.dev"
  image="$name@$(pushed_digest "$metadata")"
}

pushed_digest() {
  local digest=sha256:OF_THE_PUSHED_IMAGE
  [ -n "$dry_run" ] || digest=$(sed -n 's/.*"containerimage.digest": *"\(sha256:[0-9a-f]\{64\}\)".*/\1/p' "$1")
  [ -n "$digest" ] || fail "$1 names no containerimage.digest" 'docker buildx version # 0.8 or later?'
  printf %s "$digest"
}

# REVISION is the image's tag and label: git's, unless it is given.
find_revision() {
  [ -z "$IMAGE$undeploy$check_only" ] || return 0
  if [ -z "${REVISION:-}" ]; then
    REVISION=$(git rev-parse --short=12 HEAD 2>/dev/null) || fail 'this is not a git checkout' 'export REVISION=1'
    [ -z "$(git status --porcelain)" ] || REVISION="$REVISION-dirty"
  fi
  check REVISION '[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}' 1
}

# $origin and $version are labels of the image. A remote's URL can hold a password, which is left out.
find_origin() {
  origin=$(git config --get remote.origin.url 2>/dev/null | sed 's#//[^/@]*@#//#') || origin=
  case $origin in https://* | ssh://* | git@*) ;; *) origin=unknown ;; esac
  version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
}

# Runs `removals` twice: once to show what it would do, and once to do it.
undeploy() {
  [ -n "$dry_run" ] || check_gcloud
  only_print=1
  printf '# What is removed:\n' >&2
  removals
  [ -z "$dry_run" ] || return 0
  confirm 'nothing was removed' 'Repeat the command with --yes.'
  only_print=
  printf '# It is removed now.\n' >&2
  removals
}

# DELETE COMMAND… -- DESCRIBE COMMAND…: deletes what is there.
remove() {
  local delete=()
  while [ "$1" != -- ]; do delete+=("$1") && shift; done
  shift
  if present "$@"; then run "${delete[@]}"; fi
}

remove_service_account() {
  local email="$1@$PROJECT_ID.iam.gserviceaccount.com"
  remove gcloud iam service-accounts delete "$email" "--project=$PROJECT_ID" --quiet -- \
    gcloud iam service-accounts describe "$email" "--project=$PROJECT_ID"
}
