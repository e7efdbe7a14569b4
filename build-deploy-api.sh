#!/usr/bin/env bash
# Builds the API's image, pushes it, gives it the few permissions it needs and deploys the Cloud Run service.
# `--help` has the variables.
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
. ./deploy-common.sh

usage() {
  cat <<'END'
Usage: PROJECT_ID=… REPOSITORY=… REGISTRY_REGION=… RUNTIME_REGION=… ./build-deploy-api.sh [--dry-run] [--help]

Builds Dockerfile.api, pushes it to Artifact Registry and deploys it as a Cloud Run service that may start one job.
Every command is printed before it runs; with --dry-run all of them are printed and none runs. Running it again is safe.

  PROJECT_ID        the Google Cloud project
  REPOSITORY        the Artifact Registry repository of format docker
  REGISTRY_REGION   its location, such as us-central1
  RUNTIME_REGION    the region of the service and of the job

  JOB               the job it starts: ./build-deploy-job.sh    test-job
  SERVICE           name of the service                         test-invoke-job-api-svc
  API_IMAGE         name of its image                           test-invoke-job
  API_ACCOUNT       service account the service runs as         test-invoke-job-api
  ROLE              custom role with the reads it needs         testInvokeJobApi
  REVISION          tag of the image                            git's, with -dirty where files differ

  AUTH              who may call                                iam
                      iam     whom Cloud Run's IAM lets through (roles/run.invoker)
                      iap     people who sign in through Identity-Aware Proxy
                      jwt     bearers of a token the service verifies; needs API__AUTH__JWT__AUDIENCE and
                              API__AUTH__JWT__PRESET (google, firebase) or API__AUTH__JWT__ISSUER and …JWKS_URL
                      both need grants: a settings file (CONFIG_SECRET), or API__AUTH__SCOPE_CLAIM
                      public  ANYBODY ON THE INTERNET
  STORE             where starts are claimed                    memory; firestore for more than one instance
  MAX_INSTANCES     1      CONCURRENCY  80      MEMORY  256Mi

  API__…            any other setting of docs/settings.md, exported, is set on the service
  CONFIG_SECRET     NAME:VERSION of a Secret Manager secret that holds a settings file (API_CONFIG)
END
}

: "${JOB=test-job}" "${SERVICE=test-invoke-job-api-svc}" "${API_IMAGE=test-invoke-job}" "${API_ACCOUNT=test-invoke-job-api}"
: "${ROLE=testInvokeJobApi}" "${AUTH=iam}" "${STORE=memory}" "${MAX_INSTANCES=1}" "${CONCURRENCY=80}" "${MEMORY=256Mi}"
: "${CONFIG_SECRET=}"

# What the service reads (run.jobs.get: to check its set-up). Starting and cancelling come with
# roles/run.jobsExecutorWithOverrides on the job, which brings no reads.
permissions=logging.logEntries.list,run.executions.get,run.executions.list,run.jobs.get
settings=() # NAME=VALUE: the service's environment
services=(artifactregistry.googleapis.com cloudresourcemanager.googleapis.com iam.googleapis.com logging.googleapis.com
  run.googleapis.com)
deploy=(gcloud run deploy)
url=
access=() # who may reach the service, as flags of `deploy`

check_variables() {
  check_common
  check JOB "$service_name" test-job
  check SERVICE "$service_name" test-invoke-job-api-svc
  check API_IMAGE "$image_name" test-invoke-job
  check API_ACCOUNT "$account_name" test-invoke-job-api
  check ROLE '[A-Za-z0-9_.]{3,64}' testInvokeJobApi
  check AUTH 'iam|iap|jwt|public' iam
  check STORE 'memory|firestore' memory
  check MAX_INSTANCES '[1-9][0-9]{0,3}' 1
  check CONCURRENCY '[1-9][0-9]{0,2}|1000' 80
  check MEMORY '[1-9][0-9]{0,5}(Mi|Gi)' 256Mi
  [ -z "$CONFIG_SECRET" ] || check CONFIG_SECRET '[A-Za-z0-9_-]{1,255}:([1-9][0-9]*|latest)' api-config:1
  [ "$MAX_INSTANCES" = 1 ] || [ "$STORE" = firestore ] ||
    fail "with MAX_INSTANCES=$MAX_INSTANCES two instances could start the same thing twice" 'export STORE=firestore'
  [ "$AUTH" != jwt ] || [ -n "$CONFIG_SECRET" ] || check_jwt
  case $AUTH in
    iap | jwt) [ -n "$CONFIG_SECRET${API__AUTH__SCOPE_CLAIM:-}" ] ||
      fail "AUTH=$AUTH, but nobody is granted anything: the service would not start" \
        'export CONFIG_SECRET=api-config:1 # a settings file with [[auth.grants]]; or API__AUTH__SCOPE_CLAIM=…' ;;
  esac
}

check_jwt() {
  [ -n "${API__AUTH__JWT__AUDIENCE:-}" ] ||
    fail 'AUTH=jwt needs the audience that the tokens are made for' "export API__AUTH__JWT__AUDIENCE=$PROJECT_ID"
  [ -n "${API__AUTH__JWT__PRESET:-}${API__AUTH__JWT__ISSUER:-}" ] ||
    fail 'AUTH=jwt needs to know who makes the tokens' 'export API__AUTH__JWT__PRESET=firebase'
  [ -n "${API__AUTH__JWT__PRESET:-}" ] || [ -n "${API__AUTH__JWT__JWKS_URL:-}" ] ||
    fail 'AUTH=jwt needs the keys of the issuer' 'export API__AUTH__JWT__JWKS_URL=https://…/.well-known/jwks.json'
}

# Every exported API__ setting but those that this script decides.
collect_settings() {
  local setting
  while IFS= read -r setting; do
    check_name "$setting"
    settings+=("$setting=${!setting}")
  done < <(compgen -e API__)
  settings+=("API__CLOUD_RUN__JOB=$JOB")
  [ "$STORE" = memory ] || settings+=("API__IDEMPOTENCY__STORE=$STORE")
}

check_name() {
  case $1 in
    *[!A-Z0-9_]*) fail "$(printf %q "$1") is no name of a setting" ;;
    API__CLOUD_RUN__JOB) fail "$1 is set by this script" "unset $1; export JOB=…" ;;
    API__AUTH__MODE) fail "$1 is set by this script" "unset $1; export AUTH=…" ;;
    API__AUTH__JWT__PRESET | API__AUTH__JWT__AUDIENCE) [ "$AUTH" != iap ] || fail "$1 is set by this script for AUTH=iap" "unset $1" ;;
    API__IDEMPOTENCY__STORE) fail "$1 is set by this script" "unset $1; export STORE=…" ;;
  esac
}

list_services() {
  [ "$AUTH" != iap ] || services+=(iap.googleapis.com)
  [ "$STORE" != firestore ] || services+=(firestore.googleapis.com)
  [ -z "$CONFIG_SECRET" ] || services+=(secretmanager.googleapis.com)
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
  local member="serviceAccount:$API_ACCOUNT@$PROJECT_ID.iam.gserviceaccount.com"
  grant "$member" roles/run.jobsExecutorWithOverrides run jobs -- "$JOB" "--region=$RUNTIME_REGION" "--project=$PROJECT_ID"
  grant "$member" "projects/$PROJECT_ID/roles/$ROLE" projects -- "$PROJECT_ID"
  [ "$STORE" != firestore ] || grant "$member" roles/datastore.user projects -- "$PROJECT_ID"
  [ -z "$CONFIG_SECRET" ] ||
    grant "$member" roles/secretmanager.secretAccessor secrets -- "${CONFIG_SECRET%:*}" "--project=$PROJECT_ID"
}

check_firestore() {
  present gcloud firestore databases describe '--database=(default)' "--project=$PROJECT_ID" --format='value(name)' ||
    fail 'there is no Firestore database' "gcloud firestore databases create --location=$RUNTIME_REGION --project=$PROJECT_ID"
}

# Claims carry the time at which they mean nothing any more; Firestore deletes them after it.
ensure_ttl() {
  local policy=(--collection-group=starts "--project=$PROJECT_ID") fields
  ask fields '' gcloud firestore fields ttls list "${policy[@]}" --format='value(name.basename())'
  [ "$fields" = expireAt ] || run gcloud firestore fields ttls update expireAt "${policy[@]}" --enable-ttl --async --format=none
}

mount_config() {
  if [ -z "$CONFIG_SECRET" ]; then
    access+=(--clear-secrets)
  else
    access+=("--set-secrets=/config/api.toml=$CONFIG_SECRET")
    settings+=(API_CONFIG=/config/api.toml)
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
}

parse_arguments "$@"
check_variables
collect_settings
find_revision

list_services
check_prerequisites "${services[@]}"
present gcloud run jobs describe "$JOB" "--region=$RUNTIME_REGION" "--project=$PROJECT_ID" --format='value(metadata.name)' ||
  fail "there is no job $JOB in $RUNTIME_REGION" ./build-deploy-job.sh
[ "$STORE" != firestore ] || check_firestore
choose_access
mount_config
environment=$(joined_settings)

ensure_service_account "$API_ACCOUNT" "Runs the service $SERVICE, which starts the job $JOB"
ensure_role
build_and_push Dockerfile.api "$API_IMAGE"
grant_permissions
[ "$STORE" != firestore ] || ensure_ttl
# --cpu-boost: the first request after a rest waits for the start.
ask url "https://URL_OF_THE_SERVICE" "${deploy[@]}" "$SERVICE" "--image=$image" "--region=$RUNTIME_REGION" "--project=$PROJECT_ID" \
  "--service-account=$API_ACCOUNT@$PROJECT_ID.iam.gserviceaccount.com" \
  --cpu=1 --cpu-boost --min-instances=0 "--max-instances=$MAX_INSTANCES" "--memory=$MEMORY" "--concurrency=$CONCURRENCY" \
  "${access[@]}" "--set-env-vars=$environment" --format='value(status.url)'
[ -n "$dry_run" ] || print_next
