#!/usr/bin/env bash
# Builds the API's image, pushes it, gives it the few permissions it needs and deploys the Cloud Run service.
# `--help` has the variables.
[ -n "${BASH_VERSION:-}" ] || { echo "$0 is a bash script: run it as ./build-deploy-api.sh, or with bash" >&2; exit 1; }
set +o posix # where `sh` is bash
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
. ./deploy-common.sh

usage() {
  cat <<'END'
Usage: ./build-deploy-api.sh [--env FILE] [--yes] [--dry-run] [--check] [--undeploy] [-h | --help]

Builds Dockerfile.api, pushes it to Artifact Registry and deploys it as a Cloud Run service that may start the jobs it is set up for.
The variables come from the environment and from deploy.env, if that file is there (deploy.env.example lists them).
Every command is printed before it runs. Running the script again is safe: what it would change of a service that is deployed
already is printed first, and needs a yes.

  --env FILE        reads FILE instead of deploy.env, such as staging.env
  --yes             does not ask whether the service that is deployed may be changed
  --dry-run         prints every command and runs none
  --check           runs the doctor (api check) where the service is, with the service's account, image, settings and secrets
  --undeploy        removes the service, its account, role and bindings, and the policy that deletes old claims; never a database

  PROJECT_ID        the Google Cloud project
  REPOSITORY        the Artifact Registry repository of format docker
  REGISTRY_REGION   its location, such as us-central1
  RUNTIME_REGION    the region of the service and of the jobs

  JOB               the job it starts: ./build-deploy-job.sh    test-job
  JOBS              further jobs, if the settings name some that this script cannot read from them
  SERVICE           name of the service                         test-invoke-job-api-svc
  IMAGE             an image that is there already, by its digest: nothing is built, and REPOSITORY and REGISTRY_REGION are not needed
  API_IMAGE         name of the image that is built             test-invoke-job-api-svc
  API_ACCOUNT       service account the service runs as         the service's name without -svc
  ROLE              custom role with the reads it needs         testInvokeJobApi
  REVISION          tag of the image                            git's, with -dirty where files differ
  LABELS            labels of the service, such as team=billing,stage=production

  AUTH              who may call                                iam
                      iam     whom Cloud Run's IAM lets through (roles/run.invoker)
                      iap     people who sign in through Identity-Aware Proxy
                      jwt     bearers of a token the service verifies; needs API__AUTH__JWT__AUDIENCE and
                              API__AUTH__JWT__PRESET (google, firebase) or API__AUTH__JWT__ISSUER and …JWKS_URL,
                              or a secret that signs scope tokens (SECRETS)
                      both need grants: a settings file (CONFIG_SECRET), or API__AUTH__SCOPE_CLAIM
                      public  ANYBODY ON THE INTERNET
  STORE             where starts are claimed                    firestore; or memory, for one instance
  FIRESTORE_LOCATION  where the database is made if there is none   the location nearest to RUNTIME_REGION
  MAX_INSTANCES     1      CONCURRENCY  80      MEMORY  256Mi
  MIN_INSTANCES     instances that never rest                   as it is on the service; 0 on a new one

  API__…            any other setting of docs/settings.md; limits.in_flight and limits.streams are set below CONCURRENCY if they are not
  CONFIG_SECRET     NAME:VERSION of a Secret Manager secret that holds a settings file (API_CONFIG)
  SECRETS           settings that are secrets, such as API__AUTH__JWT__SECRET=scope-tokens:1 (NAME=SECRET:VERSION, blanks between)

What these variables do not name (network, ingress, probes, traffic) stays as it is on the service.
END
}

# The service's name without -svc, if an account can be called that; a name that is none is told once.
account_of_service() {
  if is_of_form "$SERVICE" "$service_name"; then printf %s "${SERVICE%-svc}"; else printf test-invoke-job-api; fi
}

parse_arguments "$@"
read_env_file
: "${REPOSITORY=}" "${REGISTRY_REGION=}" "${IMAGE=}" "${LABELS=}" "${CONFIG_SECRET=}" "${SECRETS=}" "${JOBS=}" "${FIRESTORE_LOCATION=}"
: "${JOB=test-job}" "${SERVICE=test-invoke-job-api-svc}" "${API_IMAGE=test-invoke-job-api-svc}" "${API_ACCOUNT=$(account_of_service)}"
: "${ROLE=testInvokeJobApi}" "${AUTH=iam}" "${STORE=firestore}" "${MAX_INSTANCES=1}" "${MIN_INSTANCES=}" "${CONCURRENCY=80}" "${MEMORY=256Mi}"

# What the service reads (run.jobs.get: to check its set-up). Starting and cancelling come with
# roles/run.jobsExecutorWithOverrides on the job, which brings no reads.
permissions=logging.logEntries.list,run.executions.get,run.executions.list,run.jobs.get
executor=roles/run.jobsExecutorWithOverrides
# A request may take as long as Cloud Run lets it: an event stream is one, and is cut at the timeout, which is 5 minutes unless set.
request_timeout=3600 # seconds; Cloud Run's maximum
iam_delay=120 # seconds; Google says that a change of IAM takes about two minutes to be in effect everywhere
settings=() # NAME=VALUE: the service's environment
secrets=() # NAME=SECRET:VERSION, and /PATH=SECRET:VERSION: what is mounted
services=(artifactregistry.googleapis.com cloudresourcemanager.googleapis.com iam.googleapis.com logging.googleapis.com
  run.googleapis.com)
deploy=(gcloud run deploy)
url=
access=() # who may reach the service, as flags of `deploy`
jobs=() # what the service may start
deployed= # whether the service is there already
deployed_settings=() deployed_secrets=() deployed_fields=()
deployed_iap='' deployed_unchecked='' # true: IAP is on; Cloud Run asks no IAM who calls

check_variables() {
  local secret
  check_common
  check JOB "$service_name" test-job
  check_if_set JOBS "$service_name( +$service_name)*" "'import-job export-job'"
  check SERVICE "$service_name" test-invoke-job-api-svc
  check API_IMAGE "$image_name" test-invoke-job-api-svc
  check API_ACCOUNT "$account_name" test-invoke-job-api
  check ROLE '[A-Za-z0-9_.]{3,64}' testInvokeJobApi
  check AUTH 'iam|iap|jwt|public' iam
  check STORE 'memory|firestore' firestore
  check_if_set FIRESTORE_LOCATION '[a-z]{2,20}-[a-z]{2,20}[0-9]{1,2}|(nam|eur)[0-9]{1,2}' nam5
  check MAX_INSTANCES '[1-9][0-9]{0,3}' 1
  check_if_set MIN_INSTANCES '[0-9]{1,4}' 1
  check CONCURRENCY '[1-9][0-9]{0,2}|1000' 80
  check MEMORY '[1-9][0-9]{0,5}(Mi|Gi)' 256Mi
  check_if_set CONFIG_SECRET "$secret_version" api-config:1
  check_if_set SECRETS "API__[A-Z0-9_]+=$secret_version( +API__[A-Z0-9_]+=$secret_version)*" API__AUTH__JWT__SECRET=scope-tokens:1
  [ ${#complaints[@]} = 0 ] || return 0 # what follows would speak of values that are none
  [ "$MAX_INSTANCES" = 1 ] || [ "$STORE" = firestore ] ||
    complain "with MAX_INSTANCES=$MAX_INSTANCES two instances could start the same thing twice" 'export STORE=firestore'
  [ -n "$undeploy$check_only" ] || check_access
}

check_access() {
  case $SECRETS in *API__AUTH__JWT__SECRET=*) return 0 ;; esac # the tokens it signs list their scopes
  [ "$AUTH" != jwt ] || [ -n "$CONFIG_SECRET" ] || check_jwt
  case $AUTH in
    iap | jwt) [ -n "$CONFIG_SECRET${API__AUTH__SCOPE_CLAIM:-}" ] ||
      complain "AUTH=$AUTH, but nobody is granted anything: the service would not start" \
        'export CONFIG_SECRET=api-config:1 # a settings file with [[auth.grants]]; or API__AUTH__SCOPE_CLAIM=…' ;;
  esac
}

check_jwt() {
  [ -n "${API__AUTH__JWT__AUDIENCE:-}" ] ||
    complain 'AUTH=jwt needs the audience that the tokens are made for' "export API__AUTH__JWT__AUDIENCE=$PROJECT_ID"
  [ -n "${API__AUTH__JWT__PRESET:-}${API__AUTH__JWT__ISSUER:-}" ] ||
    complain 'AUTH=jwt needs to know who makes the tokens' 'export API__AUTH__JWT__PRESET=firebase'
  [ -n "${API__AUTH__JWT__PRESET:-}" ] || [ -n "${API__AUTH__JWT__JWKS_URL:-}" ] ||
    complain 'AUTH=jwt needs the keys of the issuer' 'export API__AUTH__JWT__JWKS_URL=https://…/.well-known/jwks.json'
}

# Every exported API__ setting but those that this script decides.
collect_settings() {
  local setting
  while IFS= read -r setting; do
    check_name "$setting"
    settings+=("$setting=${!setting}")
  done < <(compgen -e API__)
  settings+=("API__CLOUD_RUN__JOB=$JOB" "API__IDEMPOTENCY__STORE=$STORE")
  for setting in $SECRETS; do secrets+=("$setting"); done
}

check_name() {
  case $1 in
    *[!A-Z0-9_]*) complain "$(printf %q "$1") is no name of a setting" ;;
    API__CLOUD_RUN__JOB) complain "$1 is set by this script" "unset $1; export JOB=…" ;;
    API__AUTH__MODE) complain "$1 is set by this script" "unset $1; export AUTH=…" ;;
    API__AUTH__JWT__PRESET | API__AUTH__JWT__AUDIENCE) [ "$AUTH" != iap ] || complain "$1 is set by this script for AUTH=iap" "unset $1" ;;
    API__IDEMPOTENCY__STORE) complain "$1 is set by this script" "unset $1; export STORE=…" ;;
    API__AUTH__JWT__SECRET*) complain "$1 would be shown to everybody who may look at the service: keep it in Secret Manager" \
      "printenv $1 | gcloud secrets create scope-tokens --data-file=- --project=$PROJECT_ID" \
      "unset $1; export SECRETS=$1=scope-tokens:1" ;;
  esac
}

list_services() {
  [ "$AUTH" != iap ] || services+=(iap.googleapis.com)
  [ "$STORE" != firestore ] || services+=(firestore.googleapis.com)
  [ -z "$CONFIG_SECRET$SECRETS" ] || services+=(secretmanager.googleapis.com)
}

choose_access() {
  access=(--no-allow-unauthenticated)
  case $AUTH in
    iam) settings+=(API__AUTH__MODE=iam) ;;
    iap) choose_iap ;;
    jwt)
      access=(--allow-unauthenticated) # IAM cannot check such tokens: everybody reaches the service, and the service checks
      settings+=(API__AUTH__MODE=jwt)
      ;;
    public)
      access=(--allow-unauthenticated)
      settings+=(API__AUTH__MODE=public)
      printf '\n*** %s ***\n\n' >&2 \
        'AUTH=public: anybody on the internet can start the job, cancel it, read its log and run up its cost.'
      ;;
  esac
}

choose_iap() {
  local number
  ask number PROJECT_NUMBER gcloud projects describe "$PROJECT_ID" --format='value(projectNumber)'
  deploy=(gcloud beta run deploy) # the released command does not have --iap yet
  access+=(--iap)
  settings+=(API__AUTH__MODE=jwt API__AUTH__JWT__PRESET=iap
    "API__AUTH__JWT__AUDIENCE=/projects/$number/locations/$RUNTIME_REGION/services/$SERVICE")
}

# Reads what is deployed, if it is.
describe_service() {
  local spec=spec.template.spec container='spec.template.spec.containers[0]' fields
  local env=spec.template.spec.containers.env name value secret version
  fields="$container.image,$spec.serviceAccountName,$container.resources.limits.memory,$spec.containerConcurrency"
  fields="$fields,$spec.timeoutSeconds,spec.template.metadata.annotations.\"autoscaling.knative.dev/maxScale\""
  fields="$fields,metadata.annotations.\"run.googleapis.com/minScale\",metadata.annotations.\"run.googleapis.com/iap-enabled\""
  fields="$fields,metadata.annotations.\"run.googleapis.com/invoker-iam-disabled\""
  fields="$fields,$spec.volumes[0].secret.secretName,$spec.volumes[0].secret.items[0].key"
  present gcloud run services describe "$SERVICE" "${place[@]}" --format="value[separator='|'](metadata.name,$fields)" || return 0
  [ -z "$dry_run" ] || return 0
  deployed=1
  IFS='|' read -r -a deployed_fields <<<"$description"
  deployed_iap=$(lower_case "${deployed_fields[8]:-}") deployed_unchecked=$(lower_case "${deployed_fields[9]:-}")
  [ -z "${deployed_fields[10]:-}" ] || deployed_secrets=("/config/api.toml=${deployed_fields[10]}:${deployed_fields[11]:-latest}")
  # Values can hold anything, line breaks too, so gcloud is asked for them in base64.
  present gcloud run services describe "$SERVICE" "${place[@]}" --flatten='spec.template.spec.containers[].env[]' \
    --format="value[separator='|']($env.name,$env.firstof(value).encode(base64),$env.valueFrom.secretKeyRef.name,$env.valueFrom.secretKeyRef.key)" ||
    fail "the service $SERVICE has just been deleted" "./$script"
  while IFS='|' read -r name value secret version; do
    if [ -n "$secret" ]; then
      deployed_secrets+=("$name=$secret:$version")
    elif [ -n "$name" ]; then
      value=$(printf %s "$value" | base64 --decode && printf .)
      deployed_settings+=("$name=${value%.}")
    fi
  done <<<"$description"
}

lower_case() { printf %s "$1" | tr '[:upper:]' '[:lower:]'; }

refuse_iap_left_on() {
  [ "$AUTH" != iap ] && [ "$deployed_iap" = true ] || return 0
  fail "$SERVICE is behind Identity-Aware Proxy, and AUTH=$AUTH would trust whomever IAP lets in; take it away first" \
    "gcloud beta run services update $SERVICE --no-iap ${place[*]}"
}

# NAME ENTRY…: the value of NAME among entries NAME=VALUE.
value_of() {
  local name=$1 entry
  shift
  for entry; do
    case $entry in "$name="*) printf %s "${entry#*=}" && return ;; esac
  done
}

# ENTRY…: the names, each once.
names_of() {
  local entry
  for entry; do printf '%s\n' "${entry%%=*}"; done | sort -u
}

# Notes what the deploy would change. Another image of the same name is what a deploy is for.
compare_with_deployed() {
  local name both email="$API_ACCOUNT@$PROJECT_ID.iam.gserviceaccount.com"
  [ -n "$deployed" ] || return 0
  both=(${deployed_settings[@]+"${deployed_settings[@]}"} "${settings[@]}")
  while IFS= read -r name; do
    case $name in API_CONFIG) continue ;; esac # it comes and goes with the settings file
    compare "$name" "$(value_of "$name" ${deployed_settings[@]+"${deployed_settings[@]}"})" "$(value_of "$name" "${settings[@]}")"
  done < <(names_of "${both[@]}")
  both=(${deployed_secrets[@]+"${deployed_secrets[@]}"} ${secrets[@]+"${secrets[@]}"})
  while IFS= read -r name; do
    compare "${name/#\/config\/api.toml/CONFIG_SECRET}" "$(value_of "$name" ${deployed_secrets[@]+"${deployed_secrets[@]}"})" \
      "$(value_of "$name" ${secrets[@]+"${secrets[@]}"})"
  done < <(names_of ${both[@]+"${both[@]}"})
  [ -z "$IMAGE" ] || compare image "$(repository_of "${deployed_fields[1]}")" "$(repository_of "$IMAGE")"
  compare API_ACCOUNT "${deployed_fields[2]:-}" "$email"
  compare MEMORY "${deployed_fields[3]:-}" "$MEMORY"
  compare CONCURRENCY "${deployed_fields[4]:-}" "$CONCURRENCY"
  compare 'request timeout' "${deployed_fields[5]:-}" "$request_timeout"
  compare MAX_INSTANCES "${deployed_fields[6]:-}" "$MAX_INSTANCES"
  [ -z "$MIN_INSTANCES" ] || compare MIN_INSTANCES "${deployed_fields[7]:-0}" "$MIN_INSTANCES"
  compare_access
}

compare_access() {
  local is="whom IAM lets in" becomes="whom IAM lets in"
  read_doors
  [ -z "$doors" ] || is="anybody ($(doors_in_words))"
  [ "$deployed_unchecked" != true ] || is='anybody (Cloud Run does not ask IAM)'
  [ "$deployed_iap" != true ] || is="$is, through Identity-Aware Proxy"
  case $AUTH in
    jwt | public) becomes=$is && can_be_reached || becomes='anybody (roles/run.invoker to allUsers)' ;;
    iap) becomes="$becomes, through Identity-Aware Proxy" ;;
  esac
  compare 'who reaches it' "$is" "$becomes"
}

# Leaves in $doors what lets the public in, a line "ROLE to MEMBER" each.
read_doors() {
  local lines
  ask lines '' gcloud run services get-iam-policy "$SERVICE" "${place[@]}" --flatten='bindings[].members' \
    '--filter=bindings.members=(allUsers allAuthenticatedUsers)' --format="value[separator=' to '](bindings.role,bindings.members)"
  doors=$(printf %s "$lines" | sort -u)
}

doors_in_words() { printf %s "${doors//$'\n'/, }"; }

can_be_reached() {
  [ "$deployed_unchecked" != true ] || return 0
  case $'\n'$doors$'\n' in *$'\nroles/run.invoker to allUsers\n'*) ;; *) return 1 ;; esac
}

# The revision that trusts IAM must not serve while IAM lets everybody in. gcloud's own --no-allow-unauthenticated comes after
# the deploy, looks at one role, and only warns where it is refused.
close_to_the_public() {
  local door closed=
  case $AUTH in jwt | public) return 0 ;; esac
  if [ -n "$dry_run" ]; then
    read_doors
    printf '# if that finds somebody, for each:\n' >&2
    run gcloud run services remove-iam-policy-binding "$SERVICE" "${place[@]}" --member=allUsers --role=roles/run.invoker --all --format=none
    return 0
  fi
  [ -n "$deployed" ] || return 0
  if [ "$deployed_unchecked" = true ]; then
    run gcloud run services update "$SERVICE" --invoker-iam-check "${place[@]}" --format=none
    read_unchecked
    [ "$deployed_unchecked" != true ] || fail "Cloud Run still asks no IAM who calls $SERVICE: nothing was deployed"
    closed=1
  fi
  read_doors
  while IFS= read -r door; do
    [ -n "$door" ] || continue
    run gcloud run services remove-iam-policy-binding "$SERVICE" "${place[@]}" "--member=${door##* to }" "--role=${door%% to *}" --all \
      --format=none || fail "anybody can still reach $SERVICE (${door}), so that nothing was deployed; gcloud says why above"
    closed=1
  done <<<"$doors"
  [ -n "$closed" ] || return 0
  read_doors
  [ -z "$doors" ] || fail "anybody can still reach $SERVICE ($(doors_in_words)): nothing was deployed"
  printf '# A change of IAM takes about two minutes to be in effect; until then anybody could reach a revision that trusts IAM.\n' >&2
  sleep "$iam_delay"
}

read_unchecked() {
  local answer
  ask answer '' gcloud run services describe "$SERVICE" "${place[@]}" \
    --format='value(metadata.annotations."run.googleapis.com/invoker-iam-disabled",metadata.annotations."run.googleapis.com/iap-enabled")'
  deployed_unchecked=$(lower_case "${answer%%$'\t'*}") deployed_iap=$(lower_case "${answer##*$'\t'}")
}

# gcloud only warns where an organisation's policy refuses a binding, so what came of it is read back.
verify_access() {
  read_unchecked
  read_doors
  [ -z "$dry_run" ] || return 0
  case $AUTH in
    iam | iap)
      [ -z "$doors" ] || fail "$SERVICE is deployed with AUTH=$AUTH, but anybody can reach it ($(doors_in_words))" \
        "gcloud run services remove-iam-policy-binding $SERVICE --member=${doors##* to } --role=${doors%% to *} --all ${place[*]}"
      [ "$deployed_unchecked" != true ] || fail "$SERVICE is deployed with AUTH=$AUTH, but Cloud Run asks no IAM who calls" \
        "gcloud run services update $SERVICE --invoker-iam-check ${place[*]}"
      [ "$AUTH" = iam ] || [ "$deployed_iap" = true ] ||
        fail "$SERVICE runs, but Identity-Aware Proxy is not on, so that nobody gets in; in a few minutes, once more:" "./$script"
      ;;
    *)
      can_be_reached || fail "$SERVICE runs, but nobody can call it: roles/run.invoker could not be given to allUsers" \
        "An organisation's policy (constraints/iam.allowedPolicyMemberDomains) refuses that to many projects. Either ask for an exception, or:" \
        "gcloud run services update $SERVICE --no-invoker-iam-check ${place[*]}" \
        "What that costs: Cloud Run asks no IAM any more who calls this service, whatever its bindings say, and only mode $AUTH" \
        "stands between the internet and the job. Google offers it to some organisations only. Then run ./$script once more." ;;
  esac
}

# The secret's version, so that the settings file can be checked with the rest; whoever deploys may lack the permission.
read_settings_file() {
  [ -n "$CONFIG_SECRET" ] || return 0
  settings_file=$(mktemp)
  trap 'rm -f "$settings_file"' EXIT
  show gcloud secrets versions access "${CONFIG_SECRET#*:}" "--secret=${CONFIG_SECRET%:*}" "--project=$PROJECT_ID"
  [ -n "$dry_run" ] || gcloud secrets versions access "${CONFIG_SECRET#*:}" "--secret=${CONFIG_SECRET%:*}" "--project=$PROJECT_ID" \
    >"$settings_file" || settings_file=unreadable
}

settings_file=

# The service's own judgement of its settings, before anything is built or changed; and what it says of jobs and limits.
check_settings() {
  local answer flat
  read_settings_file
  if [ "$settings_file" = unreadable ]; then
    settings_file=
    printf '# the settings are not checked: the settings file cannot be read\n' >&2
  elif ! command -v cargo >/dev/null; then
    printf '# the settings are not checked: that takes Rust (https://rustup.rs); the service checks them when it starts\n' >&2
  else
    show cargo run --quiet --package api -- check --settings-only --json
    if [ -z "$dry_run" ]; then
      answer=$(with_settings cargo run --quiet --package api -- check --settings-only --json) || {
        with_settings cargo run --quiet --package api -- check --settings-only >&2 || true
        fail 'the service would not start with these settings; nothing was changed'
      }
      flat=$(printf %s "$answer" | tr -d ' \n')
      effective_in_flight=$(printf %s "$flat" | sed -n 's/.*"inFlight":\([0-9]*\).*/\1/p')
      effective_streams=$(printf %s "$flat" | sed -n 's/.*"streams":\([0-9]*\).*/\1/p')
      effective_jobs=$(printf %s "$flat" | sed -n 's/.*"jobs":\[\([^]]*\)\].*/\1/p' | tr '",' '  ')
    fi
  fi
}

effective_in_flight='' effective_streams='' effective_jobs=''

# COMMAND…: with the environment that the service will have. A secret's value is nobody's business here: chance stands in for it.
with_settings() (
  local entry name
  while IFS= read -r name; do unset "$name"; done < <(compgen -e API__)
  for entry in "${settings[@]}"; do export "${entry?}"; done
  for entry in ${secrets[@]+"${secrets[@]}"}; do
    case $entry in /*) ;; *) export "${entry%%=*}=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')" ;; esac
  done
  unset API_CONFIG
  [ -z "$settings_file" ] || export API_CONFIG="$settings_file"
  export K_SERVICE="$SERVICE"
  "$@"
)

# Cloud Run queues what is above CONCURRENCY before the service sees it: with limits above it, streams would fill an
# instance, and nobody could be refused, nor cancel anything.
keep_limits_below_concurrency() {
  local in_flight=${API__LIMITS__IN_FLIGHT:-} streams=${API__LIMITS__STREAMS:-}
  [ -z "$effective_in_flight" ] || [ $((effective_in_flight + effective_streams)) -ge "$CONCURRENCY" ] || return 0
  : "${in_flight:=$((CONCURRENCY * 3 / 10 > 0 ? CONCURRENCY * 3 / 10 : 1))}"
  : "${streams:=$((CONCURRENCY * 6 / 10 > 0 ? CONCURRENCY * 6 / 10 : 1))}"
  case $in_flight$streams in *[!0-9]*) fail 'API__LIMITS__IN_FLIGHT and API__LIMITS__STREAMS are numbers' ;; esac
  [ $((in_flight + streams)) -lt "$CONCURRENCY" ] ||
    fail "limits.in_flight ($in_flight) and limits.streams ($streams) together have to be below CONCURRENCY ($CONCURRENCY)" \
      "export CONCURRENCY=$((in_flight + streams + 1)) # up to 1000; or lower API__LIMITS__IN_FLIGHT and API__LIMITS__STREAMS"
  [ -n "${API__LIMITS__IN_FLIGHT:-}" ] || settings+=("API__LIMITS__IN_FLIGHT=$in_flight")
  [ -n "${API__LIMITS__STREAMS:-}" ] || settings+=("API__LIMITS__STREAMS=$streams")
}

# The jobs that the service may start: JOB, JOBS, and those that the settings name.
find_jobs() {
  local job
  while IFS= read -r job; do jobs+=("$job"); done < <(for job in $JOB $JOBS $effective_jobs; do printf '%s\n' "$job"; done | sort -u)
}

check_jobs() {
  local job
  for job in "${jobs[@]}"; do
    present gcloud run jobs describe "$job" "${place[@]}" --format='value(metadata.name)' ||
      fail "there is no job $job in $RUNTIME_REGION" "JOB=$job ./build-deploy-job.sh"
  done
}

# A custom role that exists is changed only if it is not as it should be.
ensure_role() {
  local role=("$ROLE" "--project=$PROJECT_ID") content=("--permissions=$permissions" '--title=Reads of the job-starting API')
  if absent gcloud iam roles describe "${role[@]}" --format='value(deleted,includedPermissions)'; then
    run gcloud iam roles create "${role[@]}" "${content[@]}" --stage=GA --format=none
  elif [ -n "$dry_run" ] || [ "$description" != $'\t'"${permissions//,/;}" ]; then
    case $description in True*) run gcloud iam roles undelete "${role[@]}" --format=none ;; esac
    run gcloud iam roles update "${role[@]}" "${content[@]}" --format=none
  fi
}

grant_permissions() {
  local job secret
  for job in "${jobs[@]}"; do grant "$member" "$executor" '' run jobs -- "$job" "${place[@]}"; done
  grant "$member" "projects/$PROJECT_ID/roles/$ROLE" '' projects -- "$PROJECT_ID"
  if [ "$STORE" = firestore ]; then
    # On a project the role opens every database; the condition leaves the one.
    grant "$member" roles/datastore.user "resource.name == \"projects/$PROJECT_ID/databases/(default)\"" projects -- "$PROJECT_ID"
    revoke "$member" roles/datastore.user 'NOT bindings.condition:*' projects -- "$PROJECT_ID" # as earlier versions bound it
  fi
  for secret in $(secret_names); do grant "$member" roles/secretmanager.secretAccessor '' secrets -- "$secret" "--project=$PROJECT_ID"; done
}

# The Secret Manager secrets that the service reads, each once.
secret_names() {
  local entry
  for entry in ${secrets[@]+"${secrets[@]}"}; do
    entry=${entry#*=}
    printf '%s\n' "${entry%:*}"
  done | sort -u
}

# Firestore in native mode, in the project's one free database.
ensure_database() {
  local database=('--database=(default)' "--project=$PROJECT_ID")
  if absent gcloud firestore databases describe "${database[@]}" --format='value(type)'; then
    choose_location
    printf '# Firestore costs nothing at this size: each day 50,000 reads, 20,000 writes and 20,000 deletes are free, and 1 GiB.\n' >&2
    printf '# A start takes about five of them. The location %s can never be changed.\n' "$FIRESTORE_LOCATION" >&2
    run gcloud firestore databases create "${database[@]}" "--location=$FIRESTORE_LOCATION" --type=firestore-native --format=none
  elif [ "$description" = DATASTORE_MODE ]; then
    fail "the project's database (default) is in Datastore mode, which has no place for claims" \
      'export STORE=memory # for one instance; or use another project'
  fi
}

# Firestore is in fewer places than Cloud Run.
choose_location() {
  local locations near
  [ -z "$FIRESTORE_LOCATION" ] || return 0
  ask locations "$RUNTIME_REGION" gcloud firestore locations list "--project=$PROJECT_ID" --format='value(locationId)'
  near=$(printf '%s\n' "$locations" | grep -x -e "$RUNTIME_REGION" || true)
  [ -n "$near" ] || case $RUNTIME_REGION in
    us-*) near=$(printf '%s\n' "$locations" | grep -x -e nam5 || true) ;;
    europe-*) near=$(printf '%s\n' "$locations" | grep -x -e eur3 || true) ;;
    *) near=$(printf '%s\n' "$locations" | grep -e "^${RUNTIME_REGION%%[0-9]*}[0-9]" | sort | head -n 1 || true) ;;
  esac
  [ -n "$near" ] || fail "Firestore is not in $RUNTIME_REGION: choose one of its locations: ${locations//$'\n'/ }" \
    'export FIRESTORE_LOCATION=nam5'
  FIRESTORE_LOCATION=$near
}

# Claims carry the time at which they mean nothing any more; Firestore deletes them after it.
ensure_ttl() {
  local policy=(--collection-group=starts "--project=$PROJECT_ID") fields
  ask fields '' gcloud firestore fields ttls list "${policy[@]}" --format='value(name.basename())'
  [ "$fields" = expireAt ] || run gcloud firestore fields ttls update expireAt "${policy[@]}" --enable-ttl --async --format=none
}

warn_of_memory() {
  [ "$STORE" = memory ] || return 0
  printf '# STORE=memory: while this deploy replaces a revision, two processes run for a moment, and neither knows the starts that the\n' >&2
  printf '# other has under way. The same Idempotency-Key sent to both in that moment can start twice. STORE=firestore prevents that.\n' >&2
}

mount_config() {
  [ -z "$CONFIG_SECRET" ] || secrets=("/config/api.toml=$CONFIG_SECRET" ${secrets[@]+"${secrets[@]}"})
  [ -z "$CONFIG_SECRET" ] || settings+=(API_CONFIG=/config/api.toml)
  if [ ${#secrets[@]} = 0 ]; then
    access+=(--clear-secrets)
  else
    access+=("--set-secrets=$(IFS=, && printf %s "${secrets[*]}")")
  fi
}

# Prints the settings as one value for gcloud, which splits it at a character that none of them holds.
joined_settings() {
  local delimiter IFS
  for delimiter in ',' ';' '|' '#' '~' ''; do
    case "${settings[*]}" in *"$delimiter"*) ;; *) break ;; esac
  done
  [ -n "$delimiter" ] || fail 'the settings hold each of , ; | # ~' 'put some of them in a file: CONFIG_SECRET'
  IFS=$delimiter
  [ "$delimiter" = , ] || printf '^%s^' "$delimiter"
  printf '%s' "${settings[*]}"
}

# The curl line is to be pasted: its $(…) and $TOKEN are the reader's shell's to expand.
# shellcheck disable=SC2016
print_next() {
  local call="curl -X POST $url/scopes/acme/process"
  printf '\n%s is deployed: %s\n' "$SERVICE" "$url"
  case $AUTH in
    iam) printf '  %s -H "Authorization: Bearer $(gcloud auth print-identity-token)"\n' "$call" ;;
    jwt) printf '  %s -H "Authorization: Bearer $TOKEN"\n' "$call" ;;
    public) printf '  %s\n' "$call" ;;
    iap)
      printf 'Let somebody in, then open the URL in a browser:\n'
      printf '  gcloud beta iap web add-iam-policy-binding --resource-type=cloud-run --service=%s --region=%s --project=%s \\\n' \
        "$SERVICE" "$RUNTIME_REGION" "$PROJECT_ID"
      printf '    --member=user:SOMEBODY@EXAMPLE.COM --role=roles/iap.httpsResourceAccessor\n'
      ;;
  esac
  printf 'To have its set-up examined: ./%s --check\n' "$script"
}

# After a roll back, deploys get no traffic until somebody says so.
tell_where_traffic_goes() {
  local latest
  ask latest True gcloud run services describe "$SERVICE" "${place[@]}" --flatten='spec.traffic[]' --format='value(spec.traffic.latestRevision)'
  case $latest in *True*) return 0 ;; esac
  printf '\nThe new revision gets no traffic: an earlier one was chosen by name. To send it to the newest again:\n' >&2
  printf '    gcloud run services update-traffic %s --to-latest %s\n' "$SERVICE" "${place[*]}" >&2
}

# --check: runs the doctor as a job of the service's own container, volumes and account. The service's JSON, cut to those, has the
# form of an execution's template.
run_doctor() {
  local job="${SERVICE:0:43}-check" manifest fields execution outcome
  [ -n "$dry_run" ] || check_gcloud
  fields="spec.template.spec.serviceAccountName,spec.template.spec.volumes,spec.template.spec.containers[0].image"
  fields="$fields,spec.template.spec.containers[0].env,spec.template.spec.containers[0].volumeMounts"
  present gcloud run services describe "$SERVICE" "${place[@]}" --format="json($fields)" ||
    fail "there is no service $SERVICE in $RUNTIME_REGION" "./$script"
  manifest=$(mktemp)
  printf '{"apiVersion": "run.googleapis.com/v1", "kind": "Job", "metadata": {"name": "%s"}, "spec": {"template": %s}}\n' \
    "$job" "${description:-{\}}" >"$manifest"
  run gcloud run jobs replace "$manifest" "${place[@]}" --format=none || fail 'the doctor cannot be deployed; gcloud says why above'
  rm -f "$manifest"
  run gcloud run jobs update "$job" --args=check --max-retries=0 --task-timeout=2m "${place[@]}" --format=none
  ask execution EXECUTION gcloud run jobs execute "$job" "${place[@]}" --async --format='value(metadata.name)'
  outcome=$(wait_for_end "$execution")
  print_lines_of "$execution"
  run gcloud run jobs delete "$job" "${place[@]}" --quiet
  [ "$outcome" = well ] || exit 1
}

# EXECUTION: waits for its end and prints whether it went well. It may take the 2 minutes of its timeout and those of a start.
wait_for_end() {
  local ended attempt
  show gcloud run jobs executions describe "$1" "${place[@]}" --format='value(status.completionTime,status.succeededCount)'
  [ -z "$dry_run" ] || { printf well && return 0; }
  for attempt in $(seq 100); do
    ended=$(gcloud run jobs executions describe "$1" "${place[@]}" --format='value(status.completionTime,status.succeededCount)')
    case $ended in
      ?*$'\t'1) printf well && return 0 ;;
      [!$'\t']*) printf ill && return 0 ;;
    esac
    sleep 3 # seconds
  done
  printf ill
}

# EXECUTION: prints what it wrote. Cloud Logging has it some seconds late; the doctor's last line is about the store.
print_lines_of() {
  local attempt lines
  local filter="resource.type=\"cloud_run_job\" AND labels.\"run.googleapis.com/execution_name\"=\"$1\" AND textPayload:*"
  local read=(gcloud logging read "$filter" "--project=$PROJECT_ID" --order=asc --freshness=1h --format='value(textPayload)')
  show "${read[@]}"
  [ -z "$dry_run" ] || return 0
  for attempt in 1 2 3 4 5 6 7 8 9 10; do
    lines=$("${read[@]}") || true
    [ -z "$lines" ] || [ "$attempt" -lt 3 ] || break
    [ "$attempt" = 10 ] || sleep 3 # seconds
  done
  [ -n "$lines" ] || fail 'Cloud Logging shows no line of the doctor yet; in a minute:' "${read[*]}"
  printf '%s\n' "$lines"
}

# What --undeploy removes: bindings first, since an account that is gone leaves them behind. Role and policy stay while
# another service's account has the role.
removals() {
  local job secret others reads="projects/$PROJECT_ID/roles/$ROLE"
  remove gcloud run services delete "$SERVICE" "${place[@]}" --quiet -- \
    gcloud run services describe "$SERVICE" "${place[@]}" --format='value(metadata.name)'
  for job in "${jobs[@]}"; do
    if present gcloud run jobs describe "$job" "${place[@]}" --format='value(metadata.name)'; then
      revoke "$member" "$executor" '' run jobs -- "$job" "${place[@]}"
    fi
  done
  revoke "$member" "$reads" '' projects -- "$PROJECT_ID"
  revoke "$member" roles/datastore.user '' projects -- "$PROJECT_ID"
  for secret in $(secret_names); do
    if present gcloud secrets describe "$secret" "--project=$PROJECT_ID" --format='value(name)'; then
      revoke "$member" roles/secretmanager.secretAccessor '' secrets -- "$secret" "--project=$PROJECT_ID"
    fi
  done
  ask others '' gcloud projects get-iam-policy "$PROJECT_ID" --flatten='bindings[].members' --format='value(bindings.members)' \
    "--filter=bindings.role=$reads AND NOT bindings.members=$member"
  if [ -n "$others" ]; then
    printf '# The role %s stays, and so does the policy that deletes old claims: used by %s\n' "$ROLE" "${others//$'\n'/, }" >&2
  else
    remove_role
    remove_ttl
  fi
  remove_service_account "$API_ACCOUNT"
}

# A role that is deleted can still be read for a week.
remove_role() {
  present gcloud iam roles describe "$ROLE" "--project=$PROJECT_ID" --format='value(deleted)' || return 0
  case ${description:-} in True*) return 0 ;; esac
  run gcloud iam roles delete "$ROLE" "--project=$PROJECT_ID" --format=none
}

remove_ttl() {
  local policy=(--collection-group=starts "--project=$PROJECT_ID") fields
  [ "$STORE" = firestore ] || return 0
  present gcloud firestore databases describe '--database=(default)' "--project=$PROJECT_ID" --format='value(type)' || return 0
  ask fields expireAt gcloud firestore fields ttls list "${policy[@]}" --format='value(name.basename())'
  [ "$fields" != expireAt ] || run gcloud firestore fields ttls update expireAt "${policy[@]}" --disable-ttl --async --format=none
}

check_variables
[ -n "$undeploy$check_only" ] || collect_settings
find_revision
fail_with_complaints
place=("--region=$RUNTIME_REGION" "--project=$PROJECT_ID")
member="serviceAccount:$API_ACCOUNT@$PROJECT_ID.iam.gserviceaccount.com"

if [ -n "$check_only" ]; then
  run_doctor
  exit
fi
if [ -n "$undeploy" ]; then
  for secret in $SECRETS ${CONFIG_SECRET:+"/config/api.toml=$CONFIG_SECRET"}; do secrets+=("$secret"); done
  find_jobs
  undeploy
  [ -n "$dry_run" ] || printf '\n%s is removed. What stays: the jobs, the images, the secrets and the Firestore database.\n' "$SERVICE"
  exit
fi

list_services
check_prerequisites "${services[@]}"
describe_service
refuse_iap_left_on
choose_access
check_settings
keep_limits_below_concurrency
find_jobs
check_jobs
mount_config
environment=$(joined_settings)
compare_with_deployed
confirm_differences "$SERVICE"
[ -z "$deployed" ] || warn_of_memory

ensure_service_account "$API_ACCOUNT" "Runs the service $SERVICE, which starts jobs"
ensure_role
[ "$STORE" != firestore ] || ensure_database
build_and_push Dockerfile.api "$API_IMAGE"
grant_permissions
[ "$STORE" != firestore ] || ensure_ttl
close_to_the_public
# --cpu-boost: the first request after a rest waits for the start.
ask url "https://URL_OF_THE_SERVICE" "${deploy[@]}" "$SERVICE" "--image=$image" "${place[@]}" \
  "--service-account=$API_ACCOUNT@$PROJECT_ID.iam.gserviceaccount.com" \
  --cpu=1 --cpu-boost "--max-instances=$MAX_INSTANCES" ${MIN_INSTANCES:+"--min=$MIN_INSTANCES"} "--memory=$MEMORY" \
  "--concurrency=$CONCURRENCY" "--timeout=$request_timeout" ${LABELS:+"--labels=$LABELS"} \
  "${access[@]}" "--set-env-vars=$environment" --format='value(status.url)'
verify_access
tell_where_traffic_goes
[ -n "$dry_run" ] || print_next
