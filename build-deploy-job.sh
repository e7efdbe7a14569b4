#!/usr/bin/env bash
# Builds the job's image, pushes it and creates or updates the Cloud Run job. `--help` has the variables.
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
. ./deploy-common.sh

usage() {
  cat <<'END'
Usage: PROJECT_ID=… REPOSITORY=… REGISTRY_REGION=… RUNTIME_REGION=… ./build-deploy-job.sh [--dry-run] [--help]

Builds Dockerfile.job, pushes it to Artifact Registry and deploys it as a Cloud Run job, which nothing starts yet.
Every command is printed before it runs; with --dry-run all of them are printed and none runs. Running it again is safe.

  PROJECT_ID        the Google Cloud project
  REPOSITORY        the Artifact Registry repository of format docker
  REGISTRY_REGION   its location, such as us-central1
  RUNTIME_REGION    the region the job runs in

  JOB               name of the job                       test-job
  JOB_IMAGE         name of its image                     test-job
  JOB_ACCOUNT       service account the job runs as       test-job
  TASK_TIMEOUT      longest time one task may take        10m
  REVISION          tag of the image                      git's, with -dirty where files differ
END
}

: "${JOB=test-job}" "${JOB_IMAGE=test-job}" "${JOB_ACCOUNT=test-job}" "${TASK_TIMEOUT=10m}"
parse_arguments "$@"
check_common
check JOB "$service_name" test-job
check JOB_IMAGE "$image_name" test-job
check JOB_ACCOUNT "$account_name" test-job
check TASK_TIMEOUT '[0-9]{1,6}[smhd]?' 10m
find_revision

check_prerequisites artifactregistry.googleapis.com iam.googleapis.com run.googleapis.com
ensure_service_account "$JOB_ACCOUNT" "Runs the job $JOB"
build_and_push Dockerfile.job "$JOB_IMAGE"
# No retries: a job that is not written to be repeated must not be. Raise it where yours is.
run gcloud run jobs deploy "$JOB" "--image=$image" "--region=$RUNTIME_REGION" "--project=$PROJECT_ID" \
  "--service-account=$JOB_ACCOUNT@$PROJECT_ID.iam.gserviceaccount.com" \
  --tasks=1 --max-retries=0 "--task-timeout=$TASK_TIMEOUT"

[ -z "$dry_run" ] || exit 0
cat <<END

The job $JOB is deployed. Next: ./build-deploy-api.sh
To try the job alone:
  gcloud run jobs execute $JOB --region=$RUNTIME_REGION --project=$PROJECT_ID --wait
END
