#!/usr/bin/env bash
# Builds the job's image, pushes it and creates or updates the Cloud Run job. `--help` has the variables.
[ -n "${BASH_VERSION:-}" ] || { echo "$0 is a bash script: run it as ./build-deploy-job.sh, or with bash" >&2; exit 1; }
set +o posix # where `sh` is bash
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
. ./deploy-common.sh

usage() {
  cat <<'END'
Usage: ./build-deploy-job.sh [--env FILE] [--yes] [--dry-run] [--undeploy] [-h | --help]

Builds Dockerfile.job, pushes it to Artifact Registry and deploys it as a Cloud Run job, which nothing starts yet.
The variables come from the environment and from deploy.env, if that file is there (deploy.env.example lists them).
Every command is printed before it runs. Running the script again is safe.

  --env FILE        reads FILE instead of deploy.env, such as staging.env
  --yes             does not ask whether the job that is deployed may be changed
  --dry-run         prints every command and runs none
  --undeploy        removes the job and its service account

  PROJECT_ID        the Google Cloud project
  REPOSITORY        the Artifact Registry repository of format docker
  REGISTRY_REGION   its location, such as us-central1
  RUNTIME_REGION    the region the job runs in

  JOB               name of the job                            test-job
  IMAGE             an image that is there already: nothing is built, and REPOSITORY and REGISTRY_REGION are not needed
  DOCKERFILE        what is built, in the folder it is in      Dockerfile.job
  JOB_IMAGE         name of the image                          test-invoke-job; the job's, if it is another one
  JOB_ACCOUNT       service account the job runs as            the job's name, with -job-account if it is too short
  TASKS             how many tasks an execution has            1
  MAX_RETRIES       how often a failed task runs again         0
  TASK_TIMEOUT      longest time one task may take             10m
  LABELS            labels of the job, such as team=billing,stage=production
  REVISION          tag of the image                           git's, with -dirty where files differ

What these variables do not name (memory, environment, secrets, network) stays as it is on the job.
END
}

parse_arguments "$@"
read_env_file
: "${REPOSITORY=}" "${REGISTRY_REGION=}" "${IMAGE=}" "${JOB=test-job}" "${DOCKERFILE=Dockerfile.job}" "${TASKS=1}" "${MAX_RETRIES=0}" "${TASK_TIMEOUT=10m}" "${LABELS=}"
if is_of_form "$JOB" "$service_name" && [ "$JOB" != test-job ]; then : "${JOB_IMAGE=$JOB}"; fi
if is_of_form "$JOB" "$account_name"; then : "${JOB_ACCOUNT=$JOB}"; fi
if is_of_form "$JOB-job-account" "$account_name"; then : "${JOB_ACCOUNT=$JOB-job-account}"; fi # one has 6 letters or more
: "${JOB_IMAGE=test-invoke-job}" "${JOB_ACCOUNT=test-job}"
check_common
check JOB "$service_name" test-job
check DOCKERFILE '[A-Za-z0-9._/][A-Za-z0-9._/-]{0,255}' Dockerfile.job
check JOB_IMAGE "$image_name" test-invoke-job
check JOB_ACCOUNT "$account_name" test-job
check TASKS '[1-9][0-9]{0,4}' 1
check MAX_RETRIES '[0-9]|10' 0
check TASK_TIMEOUT '[0-9]{1,6}[smhd]?' 10m
find_revision
fail_with_complaints
[ -n "$IMAGE$undeploy" ] || [ -f "$DOCKERFILE" ] || fail "there is no file $DOCKERFILE" 'export DOCKERFILE=Dockerfile.job'

place=("--region=$RUNTIME_REGION" "--project=$PROJECT_ID")

removals() {
  remove gcloud run jobs delete "$JOB" "${place[@]}" --quiet -- gcloud run jobs describe "$JOB" "${place[@]}" --format='value(metadata.name)'
  remove_service_account "$JOB_ACCOUNT"
}

# TIME: in seconds, as Cloud Run keeps it.
seconds() {
  case $1 in
    *m) printf %s $((10#${1%m} * 60)) ;;
    *h) printf %s $((10#${1%h} * 3600)) ;;
    *d) printf %s $((10#${1%d} * 86400)) ;;
    *) printf %s $((10#${1%s})) ;;
  esac
}

# What is on the job, and would be something else afterwards. Another image of the same name is what a deploy is for.
compare_with_deployed() {
  local task=spec.template.spec.template.spec account="$JOB_ACCOUNT@$PROJECT_ID.iam.gserviceaccount.com"
  local name="$REGISTRY_REGION-docker.pkg.dev/$PROJECT_ID/$REPOSITORY/$JOB_IMAGE" fields is
  [ -z "$IMAGE" ] || name=$(repository_of "$IMAGE")
  fields="$task.containers[0].image,$task.serviceAccountName,spec.template.spec.taskCount,$task.maxRetries,$task.timeoutSeconds"
  present gcloud run jobs describe "$JOB" "${place[@]}" --format="value[separator='|'](metadata.name,$fields)" || return 0
  [ -z "$dry_run" ] || return 0
  IFS='|' read -r -a is <<<"$description"
  compare 'image' "$(repository_of "${is[1]:-}")" "$name"
  compare 'JOB_ACCOUNT' "${is[2]:-}" "$account"
  compare 'TASKS' "${is[3]:-}" "$TASKS"
  compare 'MAX_RETRIES' "${is[4]:-}" "$MAX_RETRIES"
  compare 'TASK_TIMEOUT' "${is[5]:-}" "$(seconds "$TASK_TIMEOUT")"
  confirm_differences "$JOB"
}

if [ -n "$undeploy" ]; then
  undeploy
  [ -n "$dry_run" ] || printf '\nThe job %s and its account are removed. Its images stay in the registry.\n' "$JOB"
  exit
fi

check_prerequisites artifactregistry.googleapis.com iam.googleapis.com run.googleapis.com
compare_with_deployed
ensure_service_account "$JOB_ACCOUNT" "Runs the job $JOB"
build_and_push "$DOCKERFILE" "$JOB_IMAGE"
# No retries: a job that is not written to be repeated must not be. Raise it where yours is.
run gcloud run jobs deploy "$JOB" "--image=$image" "${place[@]}" \
  "--service-account=$JOB_ACCOUNT@$PROJECT_ID.iam.gserviceaccount.com" \
  "--tasks=$TASKS" "--max-retries=$MAX_RETRIES" "--task-timeout=$TASK_TIMEOUT" ${LABELS:+"--labels=$LABELS"}

[ -z "$dry_run" ] || exit 0
cat <<END

The job $JOB is deployed. Next: ./build-deploy-api.sh
To try the job alone:
  gcloud run jobs execute $JOB --region=$RUNTIME_REGION --project=$PROJECT_ID --wait
END
