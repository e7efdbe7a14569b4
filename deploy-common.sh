# shellcheck shell=bash disable=SC2034 # what is unused here is for the scripts that source this
# What build-deploy-job.sh and build-deploy-api.sh share: checks, and steps that print themselves. Sourced, not run.
# Kept to bash 3.2, which is what macOS has.

set -euo pipefail
export CLOUDSDK_CORE_DISABLE_PROMPTS=1 # a question in the middle of a script is a script that hangs
script=${0##*/}
dry_run=

# WHAT IS WRONG [WHAT CURES IT]…
fail() {
  printf '%s: %s\n' "$script" "$1" >&2
  shift
  [ $# = 0 ] || printf '    %s\n' "$@" >&2
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

# COMMAND…: prints it and runs it; with --dry-run only prints it.
run() {
  show "$@"
  [ -n "$dry_run" ] || "$@"
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

parse_arguments() {
  local argument
  for argument; do
    case $argument in
      --dry-run) dry_run=1 ;;
      --help) usage && exit 0 ;;
      *) fail "unknown argument $(printf %q "$argument")" "./$script --help" ;;
    esac
  done
}

# VARIABLE PATTERN EXAMPLE: ends the script unless the variable's whole value matches. Values become arguments and parts of
# resource names, so no check may be left to the command that gets them.
check() {
  local LC_ALL=C value=${!1:-} # C: [a-z] is 26 letters
  [ -n "$value" ] || fail "$1 is not set" "export $1=$3"
  [[ $value =~ ^($2)$ ]] || fail "$1=$(printf %q "$value") is not of the form $2" "export $1=$3"
}

service_name='[a-z]([a-z0-9-]{0,47}[a-z0-9])?' # a Cloud Run service or job
account_name='[a-z][a-z0-9-]{4,28}[a-z0-9]' # a service account, before the @
image_name='[a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?' # one component of an image's name

check_common() {
  check PROJECT_ID '[a-z][a-z0-9-]{4,28}[a-z0-9]' my-project
  check REPOSITORY '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' my-repository
  check REGISTRY_REGION '[a-z]{2,20}(-[a-z]{2,20}[0-9]{1,2})?' us-central1
  check RUNTIME_REGION '[a-z]{2,20}-[a-z]{2,20}[0-9]{1,2}' us-central1
}

# API…: the tools, the login, the enabled APIs and the repository that every deploy needs.
check_prerequisites() {
  if [ -z "$dry_run" ]; then
    command -v docker >/dev/null || fail 'docker is not installed' 'https://docs.docker.com/get-docker/'
    docker buildx version >/dev/null 2>&1 || fail 'docker has no buildx' 'https://docs.docker.com/go/buildx/'
    command -v gcloud >/dev/null || fail 'gcloud is not installed' 'https://cloud.google.com/sdk/docs/install'
    gcloud auth print-access-token >/dev/null 2>&1 || fail 'gcloud is not logged in' 'gcloud auth login'
  fi
  check_services "$@"
  local repository=("$REPOSITORY" "--location=$REGISTRY_REGION" "--project=$PROJECT_ID")
  present gcloud artifacts repositories describe "${repository[@]}" --format='value(name)' ||
    fail "there is no repository $REPOSITORY in $REGISTRY_REGION" \
      "gcloud artifacts repositories create ${repository[*]} --repository-format=docker"
}

check_services() {
  local enabled service missing=
  ask enabled "$(printf '%s\n' "$@")" gcloud services list --enabled "--project=$PROJECT_ID" --format='value(config.name)'
  for service; do
    case $'\n'$enabled$'\n' in *$'\n'$service$'\n'*) ;; *) missing="$missing $service" ;; esac
  done
  [ -z "$missing" ] || fail "APIs that are not enabled:$missing" "gcloud services enable$missing --project=$PROJECT_ID"
}

# ACCOUNT DISPLAY-NAME
ensure_service_account() {
  absent gcloud iam service-accounts describe "$1@$PROJECT_ID.iam.gserviceaccount.com" "--project=$PROJECT_ID" || return 0
  run gcloud iam service-accounts create "$1" "--display-name=$2" "--project=$PROJECT_ID"
}

# MEMBER ROLE GROUP… -- RESOURCE…: binds the role on the resource, as in `grant M R run jobs -- my-job --region=R`.
grant() {
  local member=$1 role=$2 group=() bound
  shift 2
  while [ "$1" != -- ]; do group+=("$1") && shift; done
  shift
  ask bound '' gcloud "${group[@]}" get-iam-policy "$@" --flatten='bindings[].members' --format='value(bindings.role)' \
    "--filter=bindings.role=$role AND bindings.members=$member AND NOT bindings.condition:*"
  [ -z "$bound" ] || return 0
  [ -z "$dry_run" ] || printf '# if that finds nothing:\n' >&2
  # Only a project's policy can already have conditions, and then gcloud insists on being told that this binding has none.
  [ "${group[*]}" != projects ] || set -- "$@" --condition=None
  patiently gcloud "${group[@]}" add-iam-policy-binding "$@" "--member=$member" "--role=$role" --format=none
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
build_and_push() {
  local name="$REGISTRY_REGION-docker.pkg.dev/$PROJECT_ID/$REPOSITORY/$2" metadata="target/$2.json"
  find_origin
  run mkdir -p target
  run docker buildx build --push --platform=linux/amd64 "--file=$1" "--tag=$name:$REVISION" \
    "--build-arg=REVISION=$REVISION" "--build-arg=SOURCE=$origin" "--build-arg=VERSION=$version" \
    "--metadata-file=$metadata" . ||
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
